"""What a training step costs beyond the frozen base: operations dispatched, wall time, peak memory.

    python -m benchmarks.step --shape t5-small                    # all three parts
    python -m benchmarks.step --shape bart-base --part time --rounds 20

Prints a table for each part and writes results/step-SHAPE-DTYPE-DEVICE-PART.json. Contenders: `benchmarks.contenders`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.alternate import Timings, alternate
from benchmarks.contenders import CONTENDERS, Contender, Setting, ready
from benchmarks.memory import peak_of
from benchmarks.operations import operations
from benchmarks.shapes import SHAPES, build, tokens
from benchmarks.writing import RESULTS, table, write
from torch import Tensor

import spectune
from spectune.training.device import choose_device

FROZEN, LORA = "frozen base", "PEFT LoRA"
PARTS = ("operations", "time", "memory")


def count_operations(contenders: dict[str, Contender], matrices: int) -> list[dict[str, Any]]:
    """Operations of one step; those beyond the frozen base for each adapted matrix; numbers kept beside Adam's."""
    found = {name: operations(contender.step) for name, contender in contenders.items()}
    return [
        {
            "contender": name,
            "operations": seen.total,
            "beyond frozen per matrix": (seen.total - found[FROZEN].total) / matrices,
            "device reads": seen.reads,
            "numbers per entry": kept_numbers(contenders[name]),
        }
        for name, seen in found.items()
    ]


def kept_numbers(contender: Contender) -> float | None:
    """Numbers that the rank allocation keeps for each trained number, beside Adam's; None where nothing is trained."""
    trained: int = sum(p.numel() for p in contender.model.parameters() if p.requires_grad)
    if contender.optimizer is None:
        return None
    if contender.engine is not None:
        engine = contender.engine
        averages = [] if engine.averages is None else [*engine.averages.sensitivity, *engine.averages.uncertainty]
        indices = [bank.triplets for bank in engine.store.banks]
        kept: list[Tensor] = [*averages, *indices, *([] if engine.keep is None else [engine.keep])]
    else:
        allocator = getattr(contender.model.base_model, "rankallocator", None)
        tables = [] if allocator is None else [allocator.ipt, allocator.exp_avg_ipt, allocator.exp_avg_unc]
        kept = [tensor for entries in tables for tensor in entries.values()]
    numbers: int = sum(tensor.numel() for tensor in kept)
    return numbers / trained


def time_rows(timings: Timings) -> list[dict[str, Any]]:
    """Medians; what each contender takes beyond the frozen base; that against PEFT's."""
    beyond = {name: timings.beyond(name, FROZEN) for name in timings.values}
    rows = []
    for name in timings.values:
        lower, upper = timings.spread(name, FROZEN)
        adalora = _adalora(name, beyond) if name.startswith("spectune") else None
        rows.append(
            {
                "contender": name,
                "ms": 1e3 * timings.median(name),
                "ms beyond frozen": 1e3 * beyond[name],
                "quartiles": f"{1e3 * lower:.1f} to {1e3 * upper:.1f}",
                "beyond / frozen": beyond[name] / timings.median(FROZEN),
                "of PEFT AdaLoRA's": beyond[name] / adalora if adalora else None,
                "of PEFT LoRA's": beyond[name] / beyond[LORA] if beyond.get(LORA) and name != FROZEN else None,
            }
        )
    return rows


def _adalora(name: str, beyond: dict[str, float]) -> float | None:
    """What PEFT's AdaLoRA takes beyond the frozen base in the phase of `name`, or else in the decrease."""
    phase = name.rpartition(", ")[2]
    return beyond.get(f"PEFT AdaLoRA, {phase}", beyond.get("PEFT AdaLoRA, decrease"))


def memory_rows(names: Sequence[str], scene: dict[str, Any]) -> list[dict[str, Any]]:
    """Megabytes of each contender in a fresh process, and beyond the frozen base."""
    found = {name: peak_of(name, **scene) for name in names}
    return [
        {
            "contender": name,
            "peak MB": memory["peak"],
            "beyond frozen MB": memory["peak"] - found[FROZEN]["peak"],
            "built MB": memory["built"],
        }
        for name, memory in found.items()
    ]


def measure(options: argparse.Namespace, part: str, device: torch.device) -> dict[str, Any]:
    """One part for one shape: {"setting", "rows", and for time the seconds of every round}."""
    scene = {
        key: getattr(options, key) for key in ("shape", "dtype", "batch", "source", "target", "init_r", "target_r")
    }
    names = [FROZEN, *(name for name in CONTENDERS if name != FROZEN and _wanted(name, options.contender))]
    if part == "memory":
        rows = memory_rows(names, {**scene, "device": device.type, "threads": torch.get_num_threads()})
        return {"setting": scene, "rows": rows}
    base = build(options.shape, getattr(torch, options.dtype), device)
    setting = Setting(tokens(base, options.batch, options.source, options.target), options.init_r, options.target_r)
    contenders = {name: ready(CONTENDERS[name](base, setting)) for name in names}
    matrices = len(spectune.default_targets(base))
    if part == "operations":
        return {"setting": scene, "matrices": matrices, "rows": count_operations(contenders, matrices)}
    timings = alternate({name: contender.step for name, contender in contenders.items()}, rounds=options.rounds)
    return {"setting": scene, "rounds": options.rounds, "rows": time_rows(timings), "seconds": dict(timings.values)}


def _wanted(name: str, chosen: Sequence[str]) -> bool:
    return not chosen or any(name.startswith(start) for start in chosen)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="t5-small")
    parser.add_argument("--part", choices=PARTS, action="append", help="one of the three; repeat for more; all if none")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of the base")
    parser.add_argument("--cpu", action="store_true", help="even where a GPU is at hand")
    parser.add_argument("--contender", action="append", default=[], help="start of names to measure; all if none")
    for name, value in {"batch": 8, "source": 32, "target": 8, "init-r": 12, "target-r": 8, "rounds": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the JSON files")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    device, complaint = choose_device(options.cpu)
    print(complaint or ("on the GPU" if device.type == "cuda" else "no GPU is used; this is the CPU"))
    for part in options.part or PARTS:
        found = measure(options, part, device)
        name = f"step-{options.shape}-{options.dtype}-{device.type}-{part}"
        print(f"\n{options.shape}, {options.dtype}, {part}\n\n{table(found['rows'])}\n", flush=True)
        write(name, found, device, options.output)


if __name__ == "__main__":
    main()
