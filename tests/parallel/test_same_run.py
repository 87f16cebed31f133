"""Several processes train what one trains: the same losses, live sets, outputs; and send no more than the banks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.parallel.conftest import Group, configuration, losses


@pytest.mark.parametrize(
    ("base", "size", "accumulation", "init"),
    [("t5", 2, 1, "random"), ("bart", 2, 2, "random"), ("t5", 3, 1, "orthonormal")],
)
def test_the_same_run(
    group: Group,
    steady: dict[str, Path],
    table: Path,
    tmp_path: Path,
    base: str,
    size: int,
    accumulation: int,
    init: str,
) -> None:
    """Of 37 rows the last batch holds one: shared out among three, two processes have nothing to read."""
    sections: dict[str, Any] = {
        "evaluation": {"eval_strategy": "steps", "eval_steps": 5, "constrain_labels": True},
        "adapter": {"init": init},
    }
    sections["evaluation"] |= {"per_device_eval_batch_size": 2}
    several = configuration(steady[base], table, tmp_path / "several", **sections)
    several["train"]["gradient_accumulation_steps"] = accumulation
    alone = configuration(steady[base], table, tmp_path / "alone", **sections)
    alone["train"]["gradient_accumulation_steps"] = accumulation * size
    [reference] = group.run(1, alone)
    found = group.run(size, several)
    assert [one["error"] for one in [reference, *found]] == [None] * (size + 1), [
        one.get("message") for one in [reference, *found]
    ]

    assert losses(tmp_path / "several") == pytest.approx(losses(tmp_path / "alone"), abs=1e-5)
    assert len(reference["live"]) == 3
    for one in found:
        assert one["live"] == reference["live"]
        assert one["summary"] == found[0]["summary"]
        assert one["sent"] == [bytes_ + 4 for bytes_ in one["banks"]], "the gradients, and the loss"
    assert found[0]["sent"][-1] < found[0]["sent"][0] / 1.9, "less after compaction"
    assert len({tuple(one["drawn"]) for one in found}) == size, "each draws its own dropout"
    assert found[0]["summary"]["reload_identical"]
    ours, theirs = found[0]["summary"]["evaluations"], reference["summary"]["evaluations"]
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == [5, 10, 14]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, abs=1e-4)
    assert (tmp_path / "several" / "predictions.jsonl").read_text().count("\n") == 9


def test_the_gradient_that_a_run_starts_from(
    group: Group, steady: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    """Its small singular vectors are noise, so that the runs part; what they are made of is the same."""
    runs = []
    for size in (1, 2):
        config = configuration(steady["t5"], table, tmp_path / f"of-{size}", adapter={"init": "gradient"})
        config["train"]["gradient_accumulation_steps"] = 2 // size
        runs.append(group.run(size, config))
    [[alone], [first, second]] = runs
    assert first["gradients"] == second["gradients"] == pytest.approx(alone["gradients"], rel=1e-4, abs=1e-6)
    assert first["live"] == second["live"]
