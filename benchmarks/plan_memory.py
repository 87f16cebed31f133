"""Memory that `spectune plan` predicts against what a fresh `spectune train` takes at its peak.

    SPECTUNE_DATA=DIR python -m benchmarks.plan_memory [--case NAME ...] [--rows 32] [--batch 8]

Measured: the highest resident memory of the training process less that after all its imports (Linux). Each case is a
process of its own, a run over real rows (E2E) with evaluation and the proof; weights are random.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from benchmarks.rows import bundled_tokenizer, file_of
from benchmarks.shapes import build
from benchmarks.writing import table, write

from spectune.base_model import read_config
from spectune.config import RunConfig
from spectune.planning import plan_run
from spectune.runfile import dump_run_config, load_run_config

_CHECKPOINTS: dict[str, Any] = {"gradient_checkpointing": True}
CASES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "t5-small": ("t5-small", {}),
    "bart-base": ("bart-base", {}),
    "starter": ("starter", {}),
    "t5-small, checkpointing": ("t5-small", {"train": _CHECKPOINTS}),
    "t5-small, bfloat16": ("t5-small", {"model": {"dtype": "bfloat16"}}),
    "t5-small, nf4": ("t5-small", {"model": {"quantization": "nf4"}}),
    "t5-small, int8": ("t5-small", {"model": {"quantization": "int8"}}),
    "bart-base, re-entrant": (
        "bart-base",
        {"train": _CHECKPOINTS | {"gradient_checkpointing_kwargs": {"use_reentrant": True}}},
    ),
    "t5-small, gradient start": ("t5-small", {"adapter": {"init": "gradient"}}),
}
"""Name → shape, and what its run file says beside the common values."""


def configuration(name: str, directory: Path, rows: int, batch: int) -> RunConfig:
    """A run of one case; writes its base model."""
    shape, sections = CASES[name]
    model = "starter"
    if shape != "starter":
        model = str(directory / shape)
        write_model(shape, Path(model))
    common: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": model, "dtype": "float32"},
        "data": {
            "train_file": str(file_of("e2e_nlg", "train")),
            "validation_file": str(file_of("e2e_nlg", "validation")),
            "max_train_samples": rows,
            "max_validation_samples": rows // 2,
            "text_column": "text",
            "target_column": "target",
            "max_target_length": 128,
        },
        "train": {
            "output_dir": str(directory / "run"),
            "num_train_epochs": 1.0,
            "per_device_train_batch_size": batch,
            "use_cpu": True,
        },
        "evaluation": {"eval_on_start": False, "max_new_tokens": 16},
    }
    return load_run_config(
        None, base={name: values | sections.get(name, {}) for name, values in (common | {"adapter": {}}).items()}
    )


def write_model(shape: str, directory: Path) -> None:
    """A shape with random weights and the bundled tokenizer, as a base that can be loaded."""
    if directory.exists():
        return
    model, tokenizer = build(shape), bundled_tokenizer()
    special = {"pad": tokenizer.pad_token_id, "eos": tokenizer.eos_token_id, "decoder_start": tokenizer.pad_token_id}
    for holder in (model.config, model.generation_config):
        holder.bos_token_id = holder.forced_eos_token_id = None
        for name, value in special.items():
            setattr(holder, f"{name}_token_id", value)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def measured_peak(run_file: Path) -> int:
    """Bytes that `spectune train` takes in a fresh process beyond its imports."""
    command = [sys.executable, "-m", "benchmarks.plan_memory", "--child", str(run_file)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return int(done.stdout.splitlines()[-1])


def train_and_measure(run_file: Path) -> int:
    """What `measured_peak` returns, in this process, which must have done nothing else."""
    from spectune.cli.app import app

    config = load_run_config(run_file)
    kind = read_config(config.model).model_type
    modules = ["spectune.training.run", "spectune.api", "transformers.generation.utils", "bitsandbytes", "sacrebleu"]
    for module in [*modules, "rouge_score.rouge_scorer", f"transformers.models.{kind}.modeling_{kind}"]:
        importlib.import_module(module)
    imported = _resident("VmRSS")
    app(["train", str(run_file), "--overwrite"], standalone_mode=False)
    return _resident("VmHWM") - imported


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(name: str, rows: int, batch: int) -> dict[str, Any]:
    """Predicted and measured megabytes of a case, their ratio, the predicted parts and the batches."""
    with tempfile.TemporaryDirectory() as scratch:
        config = configuration(name, Path(scratch), rows, batch)
        run_file = Path(scratch) / "run.yaml"
        run_file.write_text(dump_run_config(config), encoding="utf-8")
        memory, peak = plan_run(config).memory, measured_peak(run_file)
    row: dict[str, Any] = {"case": name, "predicted MB": memory.total / 1e6, "measured MB": peak / 1e6}
    row |= {"ratio": round(memory.total / peak, 3)}
    for part in ("base", "adapter", "training", "start", "evaluation", "process"):
        row[f"{part} MB"] = getattr(memory, part) / 1e6
    return row | {"batch": str(memory.batch), "evaluation batch": str(memory.evaluation_batch)}


def main() -> None:
    """Print the table and write `results/plan-memory-cpu.json`, whole after each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        print(train_and_measure(given.child))
        return
    rows = []
    for name in given.case:
        rows.append(measure(name, given.rows, given.batch))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
        write("plan-memory-cpu", {"cases": rows}, torch.device("cpu"))
    print(table([{key: value for key, value in row.items() if "batch" not in key} for row in rows]))


if __name__ == "__main__":
    main()
