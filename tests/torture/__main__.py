"""`make torture`: the long form of everything that says "nothing is lost"; writes `RESULTS.json` with its date.

python -m tests.torture [--only NAME …] [--scale 0.1] [--output FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from tests.torture.configurations import check_configuration, draw
from tests.torture.faults import KINDS as FAULTS
from tests.torture.faults import fault_runs
from tests.torture.fidelity import save_at_every_step
from tests.torture.interruptions import signal_runs
from tests.torture.kills import kill_runs
from tests.torture.mutants import mutant_runs
from tests.torture.names import ACCEPTED, FAMILIES, check_name
from tests.torture.parallel import parallel_runs
from tests.torture.points import INTERVALS, KINDS, double_interruptions, resume_at, saving_leaves_no_trace
from tests.torture.poison import POISONS, poisoned_runs
from tests.torture.world import STEPS, World, make_world

RESULTS = Path(__file__).with_name("RESULTS.json")
Report = dict[str, Any]


def resume(world: World, place: Path, scale: float) -> Report:
    """Resume at every step of forty, T5 and BART, deltaT 1, 5 and 10."""
    steps = range(1, STEPS + 1, max(1, round(1 / scale)))
    failures = []
    for kind in KINDS:
        for interval in INTERVALS:
            own = _own(place, f"{kind}-{interval}")
            failures += resume_at(world, own, kind, interval, steps)
            failures += saving_leaves_no_trace(world, own, kind, interval)
    return {"points": len(steps) * len(KINDS) * len(INTERVALS), "failures": failures}


def twice(world: World, place: Path, scale: float) -> Report:
    """Double interruptions."""
    count = max(1, round(20 * scale))
    return {"double_interruptions": count, "failures": double_interruptions(world, place, count, seed=20)}


def kills(world: World, place: Path, scale: float) -> Report:
    """SIGKILL at random instants."""
    count = kill_runs(world, place, max(2, round(300 * scale)), seed=300)
    return vars(count)


def faults(world: World, place: Path, scale: float) -> Report:
    """ENOSPC, EIO and exit at every write, flush, rename and creation."""
    chosen = None if scale >= 1 else range(0, 1000, max(1, round(20 / scale)))
    return vars(fault_runs(world, place, chosen, FAULTS))


def signals(world: World, place: Path, scale: float) -> Report:
    """SIGTERM and SIGINT at random instants."""
    return vars(signal_runs(world, place, max(2, round(40 * scale)), seed=40))


def poison(world: World, place: Path, scale: float) -> Report:
    """NaN and infinity at every step, in four ways."""
    steps = range(1, STEPS + 1, max(1, round(1 / scale)))
    failures = [line for kind in KINDS for line in poisoned_runs(world, _own(place, kind), kind, steps)]
    return {"runs": len(steps) * len(POISONS) * len(KINDS), "failures": failures}


def fidelity(world: World, place: Path, scale: float) -> Report:
    """Save and reload at every step."""
    intervals = INTERVALS if scale >= 1 else INTERVALS[:1]
    pairs = [(kind, interval) for kind in KINDS for interval in intervals]
    found = [save_at_every_step(world, _own(place, f"{kind}-{interval}"), kind, interval) for kind, interval in pairs]
    return {
        "saves": sum(one.compared for one in found),
        "largest_difference_of_logits": max(one.largest for one in found),
        "failures": [line for one in found for line in one.failures],
    }


def mutants(world: World, place: Path, scale: float) -> Report:
    """Rotten bytes in checkpoints and adapters."""
    return vars(mutant_runs(world, place, max(50, round(1000 * scale)), seed=1000))


def configurations(world: World, place: Path, scale: float) -> Report:
    """Random valid configurations, by the product's own step."""
    count = max(10, round(500 * scale))
    failures = []
    for number in range(count):
        try:
            check_configuration(draw(number))
        except Exception as error:  # whatever it is, it is a failure of this one
            failures.append(f"{draw(number)}: {type(error).__name__}: {error}")
    return {"configurations": count, "failures": failures}


def names(world: World, place: Path, scale: float) -> Report:
    """Every accepted adapter name on every architecture."""
    pairs = [(name, family) for name in ACCEPTED for family in FAMILIES][:: max(1, round(1 / scale))]
    failures = []
    for number, (name, family) in enumerate(pairs):
        try:
            check_name(name, family, _own(place, str(number)))
        except Exception as error:
            failures.append(f"{name}, {family}: {type(error).__name__}: {error}")
    return {"pairs": len(pairs), "failures": failures}


def parallel(world: World, place: Path, scale: float) -> Report:
    """SIGKILL to one of two processes at random instants."""
    return vars(parallel_runs(world, place, max(2, round(20 * scale)), seed=2))


_ALL = (resume, twice, kills, faults, signals, poison, fidelity, mutants, configurations, names, parallel)
PARTS: dict[str, Callable[[World, Path, float], Report]] = {part.__name__: part for part in _ALL}


def main() -> int:
    """Run the parts; 1 if anything failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0, help="share of the attempts")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    report: dict[str, Any] = {"command": "make torture", "machine": _machine(), "parts": {}}
    if len(options.only) < len(PARTS) and options.output.exists():  # the other parts keep what they found
        report["parts"] = json.loads(options.output.read_text("utf-8"))["parts"]
    with tempfile.TemporaryDirectory(prefix="spectune-torture-") as scratch:
        world = make_world(_own(Path(scratch), "world"))
        for name in options.only:
            started = time.monotonic()
            found = PARTS[name](world, _own(Path(scratch), name), options.scale)
            found |= {"date": time.strftime("%Y-%m-%d"), "scale": options.scale}
            found |= {"seconds": round(time.monotonic() - started)}
            report["parts"][name] = found
            print(f"{name}: {json.dumps(found, default=str)}", flush=True)
            options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(any(part["failures"] for part in report["parts"].values()))


def _own(place: Path, name: str) -> Path:
    (place / name).mkdir(parents=True, exist_ok=True)
    return place / name


def _machine() -> dict[str, Any]:
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft", "safetensors")}
    return {"system": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version(), **versions}


if __name__ == "__main__":
    sys.exit(main())
