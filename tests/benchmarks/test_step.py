"""The step benchmark runs end to end on a tiny shape, and what it counts keeps the promises. Times are not judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.alternate import Timings
from benchmarks.contenders import CONTENDERS, PHASES

from benchmarks import step

SIZE = ["--cpu", "--batch", "2", "--source", "5", "--target", "3", "--init-r", "4", "--target-r", "2"]


def rows(part: str, directory: Path, *more: str, shape: str = "tiny-bart") -> tuple[dict[str, Any], dict[str, Any]]:
    """What a run writes, and its rows by contender."""
    step.main(["--shape", shape, "--part", part, "--output", str(directory), *SIZE, *more])
    found: dict[str, Any] = json.loads((directory / f"step-{shape}-float32-cpu-{part}.json").read_text())
    assert {"command", "versions", "machine", "setting"} <= set(found)
    return found, {row["contender"]: row for row in found["rows"]}


@pytest.mark.parametrize("shape", ["tiny-bart", "tiny-t5"])
def test_operations(shape: str, tmp_path: Path) -> None:
    found, counted = rows("operations", tmp_path, shape=shape)
    assert set(counted) == set(CONTENDERS)
    beyond = {name: row["beyond frozen per matrix"] * found["matrices"] for name, row in counted.items()}
    steady = {phase: beyond[f"spectune, {phase}"] for phase in PHASES}
    # 12 for each matrix at the very most, of which about 9 are the matrix's own and the rest is shared by all
    assert steady["decrease"] == steady["warm-up"] <= 9 * found["matrices"] + SHARED
    assert steady["allocating"] - steady["decrease"] <= 30
    assert steady["frozen"] <= steady["decrease"] + 10
    assert steady["decrease"] < beyond["PEFT LoRA"] < beyond["PEFT AdaLoRA, decrease"]
    assert all(row["device reads"] == counted["frozen base"]["device reads"] for row in _ours(counted))
    kept = {name: row["numbers per entry"] for name, row in counted.items()}
    assert kept["spectune, decrease"] < 2.3  # two averages, and the index of each row: rows of 16 numbers here
    assert kept["spectune, frozen"] < 0.3
    assert kept["PEFT AdaLoRA, decrease"] >= 3.0


SHARED = 115
"""Operations of a step that do not grow with the number of matrices."""


def _ours(counted: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for name, row in counted.items() if name.startswith("spectune")]


def test_time_and_memory(tmp_path: Path) -> None:
    found, timed = rows(
        "time", tmp_path, "--rounds", "2", "--contender", "PEFT LoRA", "--contender", "spectune, frozen"
    )
    assert list(timed) == ["frozen base", "PEFT LoRA", "spectune, frozen"]
    assert all(len(values) == 2 for values in found["seconds"].values())
    _, held = rows("memory", tmp_path, "--contender", "frozen base")
    assert held["frozen base"]["peak MB"] > 0


def test_rows_of_time() -> None:
    timings = Timings(
        {"frozen base": [1.0], "PEFT LoRA": [1.4], "PEFT AdaLoRA, decrease": [1.8], "spectune, decrease": [1.2]}
    )
    ours = step.time_rows(timings)[-1]
    assert ours["beyond / frozen"] == pytest.approx(0.2)
    assert ours["of PEFT AdaLoRA's"] == pytest.approx(0.25)
    assert ours["of PEFT LoRA's"] == pytest.approx(0.5)
