"""What the communication benchmark notes of a step, in a group of one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from benchmarks.communication import Watch

from spectune.training import loop
from spectune.training import step as step_module


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_bytes_and_times_of_each_size(group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*numbers: int) -> str:
        for number in numbers:
            dist.all_reduce(torch.ones(number))
        return "done"

    monkeypatch.setattr(step_module, "training_step", step)
    watch, before = Watch(), dist.all_reduce
    with watch.watching():
        dist.all_reduce(torch.ones(3))  # outside of a step
        done = [loop.__dict__["training_step"](*numbers) for numbers in ((5, 2), (5, 2), (4,))]
    assert done == ["done"] * 3
    assert dist.all_reduce is before
    assert [(row["bytes"], row["steps"]) for row in watch.rows()] == [(28, 2), (16, 1)]
    for row in watch.rows():
        assert 0.0 < row["communicating, ms"] < row["whole step, ms"]
