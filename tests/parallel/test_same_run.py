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


@pytest.mark.parametrize(("base", "size"), [("t5", 2), ("bart", 3)])
def test_the_gradient_that_a_run_starts_from(
    group: Group, steady: dict[str, Path], table: Path, tmp_path: Path, base: str, size: int
) -> None:
    """Summed so that the order does not matter: its smallest singular vectors, which are noise, are the same ones."""
    runs = []
    for processes in (1, size):
        config = configuration(steady[base], table, tmp_path / f"of-{processes}", adapter={"init": "gradient"})
        config["train"] |= {"gradient_accumulation_steps": size // processes, "max_steps": 10}
        runs.append(group.run(processes, config))
    [[alone], several] = runs
    assert [one["error"] for one in [alone, *several]] == [None] * (size + 1)
    found, expected = losses(tmp_path / f"of-{size}"), losses(tmp_path / "of-1")
    for one in several:
        assert one["gradients"] == alone["gradients"], "bit for bit"
        assert one["live"] == alone["live"]
    assert found == pytest.approx(expected, abs=1e-5)
