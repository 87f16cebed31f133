"""What a run leaves for its report, and the page it writes at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.reading import Page
from tests.training.conftest import Run, journal

from spectune.training import finish
from spectune.training.facts import SCORE_BINS, score_histogram

pytestmark = pytest.mark.usefixtures("quick_proof")


def test_a_run_ends_with_a_page_that_misses_nothing(run: Run) -> None:
    result = run(evaluation={"eval_strategy": "epoch", "eval_on_start": True}, data={"max_source_length": 12})
    found = Page((result.directory / "report.html").read_text("utf-8"))
    assert found.ids >= {"training", "ranks", "scores", "data", "metrics", "confusion", "predictions", "settings"}
    assert not any(values.get("class") == "missing" for _, values in found.tags)
    events = journal(result)
    start = events[0]
    assert (start["event"], start["step"]) == ("start", 0)
    assert start["schedule"]["total_step"] == 14
    assert start["steps_per_epoch"] == 10
    train = start["data"]["splits"]["train"]
    assert sum(rows for _, rows in train["source_lengths"]) == train["rows"] == train["examples"] == 37
    assert train["source_lengths"][-1][0] == 12, "lengths after the cut"
    assert 0 < train["sources_cut"] <= train["source_lengths"][-1][1]
    assert train["longest_source"] > 12
    allocations = [event for event in events if event["event"] == "allocation"]
    for event in allocations:
        scores = event["scores"]
        assert sum(scores["kept"]) == event["budget"] == sum(event["ranks"].values())
        assert scores["low"] <= np.log10(event["threshold"]) <= scores["high"]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    signatures = {name: metric["signature"] for name, metric in result.summary["metrics"].items()}
    assert all(event["signatures"] == signatures for event in evaluations)
    frames = found.data["ranks"]["frames"]
    assert frames[0] == [4] * len(start["matrices"])
    assert frames[-1] == list(result.summary["ranks"].values())


def test_a_resumed_run_tells_of_its_start_once(run: Run, tmp_path: Path) -> None:
    run(train={"save_steps": 5})
    resumed = run(train={"save_steps": 5}, resume=str(tmp_path / "run" / "checkpoints" / "step-10"))
    assert [event["step"] for event in journal(resumed) if event["event"] == "start"] == [0]


def test_a_page_that_cannot_be_written_costs_the_page_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finish, "write_text", full)
    result = run()
    assert result.summary["reload_identical"] is True
    assert not (result.directory / "report.html").exists()


def test_scores_are_counted_in_their_bins() -> None:
    scores: Any = np.array([1e-8, 1e-6, 1e-2, 0.0, np.nan, np.inf, 1e-2], dtype=np.float32)
    keep = np.array([False, True, True, False, False, True, True])
    found = score_histogram(scores, keep)
    assert found["zero"] == 3
    assert (found["low"], found["high"]) == (pytest.approx(-8), pytest.approx(-2))
    assert len(found["kept"]) == len(found["cut"]) == SCORE_BINS
    assert (sum(found["kept"]), sum(found["cut"])) == (3, 1)
    assert found["kept"][-1] == 2
    assert found["cut"][0] == 1
    assert score_histogram(np.zeros(3, np.float32), np.ones(3, bool))["zero"] == 3
    assert sum(score_histogram(np.ones(3, np.float32), np.ones(3, bool))["kept"]) == 3
