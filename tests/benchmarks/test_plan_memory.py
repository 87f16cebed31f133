"""Predicted memory against measured: the committed table, and one run of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.plan_memory import CASES, measure
from benchmarks.writing import RESULTS


def test_the_committed_table_keeps_the_promise() -> None:
    found = json.loads((RESULTS / "plan-memory-cpu.json").read_text(encoding="utf-8"))
    assert {row["case"] for row in found["cases"]} == set(CASES)
    for row in found["cases"]:
        assert row["predicted MB"] == pytest.approx(row["measured MB"], rel=0.2), row["case"]


def test_a_run_stays_within_its_prediction(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTUNE_DATA", str(data_root))
    row = measure("starter", rows=16, batch=8)
    assert row["measured MB"] > 100
    assert row["predicted MB"] == pytest.approx(row["measured MB"], rel=0.2)
