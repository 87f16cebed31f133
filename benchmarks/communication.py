"""Bytes and time that a step of several processes spends in communication.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m benchmarks.communication examples/demo.yaml train.max_steps=200

A whole run, whose steps are watched in every process: before its first collective a step waits for the others, so that
the time is that of the collectives and not of the slower process; the wait counts for the step.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from benchmarks.alternate import seconds
from benchmarks.writing import RESULTS, table, write

import spectune
from spectune.launch import rank, world_size
from spectune.runfile import load_run_config
from spectune.training import loop
from spectune.training import step as step_module
from spectune.training.device import choose_device

loop_module: Any = loop  # which has the step by name


@dataclass
class Step:
    """What one step cost."""

    seconds: float = 0.0
    communicating: float = 0.0
    bytes: int = 0


@dataclass
class Watch:
    """The steps of this process."""

    steps: list[Step] = field(default_factory=list)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, every training step of `spectune.train` is noted."""
        step_once, reduce_once = step_module.training_step, dist.all_reduce
        inside = False

        def step(*args: Any, **options: Any) -> Any:
            nonlocal inside
            self.steps.append(Step())
            inside, start = True, time.perf_counter()
            result = step_once(*args, **options)
            inside, self.steps[-1].seconds = False, time.perf_counter() - start
            return result

        def reduce(tensor: torch.Tensor, *rest: Any, **options: Any) -> Any:
            if not inside:
                return reduce_once(tensor, *rest, **options)
            if not self.steps[-1].bytes:
                dist.barrier()
            self.steps[-1].bytes += tensor.numel() * tensor.element_size()
            self.steps[-1].communicating += seconds(lambda: reduce_once(tensor, *rest, **options))
            return None

        with patch.object(loop_module, "training_step", step), patch.object(dist, "all_reduce", reduce):
            yield

    def rows(self) -> list[dict[str, Any]]:
        """One for each size that steps sent, in their order: the medians over its steps."""
        rows = []
        for size in dict.fromkeys(step.bytes for step in self.steps):
            same = [step for step in self.steps if step.bytes == size]
            rows.append(
                {
                    "bytes": size,
                    "steps": len(same),
                    "communicating, ms": 1e3 * median(step.communicating for step in same),
                    "whole step, ms": 1e3 * median(step.seconds for step in same),
                }
            )
        return rows


def main() -> None:
    """Train, and write what process 0 saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    config, watch = load_run_config(Path(options.run), options.overrides), Watch()
    with watch.watching():
        spectune.train(config, overwrite=True)
    if rank() == 0:
        print(table(watch.rows()))
        size, (device, _) = world_size(), choose_device(config.train.use_cpu)
        launcher = ["torchrun", "--nproc-per-node", str(size), "-m", "benchmarks.communication", *sys.argv[1:]]
        found = {"command": shlex.join(launcher), "processes": size, "steps": watch.rows()}
        print(write(f"communication-{size}-{device.type}", found, device, options.results))


if __name__ == "__main__":
    main()
