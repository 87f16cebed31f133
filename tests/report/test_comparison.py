from __future__ import annotations

import json
from pathlib import Path

import plotly.graph_objects as go
import pytest
from tests.report.reading import Page
from tests.report.run_directory import make_run, summary

from spectune.errors import RunError
from spectune.report.comparison import comparison_page, run_names


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two runs with other settings, and one that is on its way."""
    made = [
        make_run(tmp_path / "a", train={"output_dir": "runs/a"}),
        make_run(tmp_path / "b", adapter={"target_r": 4}, train={"output_dir": "runs/b", "learning_rate": 0.01}),
        make_run(tmp_path / "c</script>"[:3]),
    ]
    (made[2] / "summary.json").unlink()
    return made


def test_curves_lie_over_one_another(runs: list[Path]) -> None:
    html = comparison_page(runs)
    assert len(html.encode()) < 6_000_000
    found = Page(html)
    figures = found.data["figures"]
    assert set(figures) == {"loss", "live", "rate", "penalty", "metric_exact_match", "metric_eval_loss"}
    for figure in figures.values():
        go.Figure(figure)
        assert len(figure["data"]) == 3
        assert len({trace["line"]["dash"] for trace in figure["data"]}) == 3
        assert len({trace["marker"]["symbol"] for trace in figure["data"]}) == 3


def test_settings_that_differ_and_only_those(runs: list[Path]) -> None:
    text = Page(comparison_page(runs[:2])).text
    assert "adapter.target_r 8 4" in text
    assert "train.learning_rate 0.001 0.01" in text
    assert "adapter.init_r" not in text
    assert "train.output_dir" not in text
    assert "version or machine" not in text


def test_ranks_stand_side_by_side(runs: list[Path]) -> None:
    found = Page(comparison_page(runs[:2]))
    assert "encoder self-attention" in found.text
    tables = [values for tag, values in found.tags if tag == "table" and values.get("class") == "heat"]
    assert len(tables) == 4


def test_other_signatures_are_not_compared(runs: list[Path]) -> None:
    other = summary()
    other["metrics"]["exact_match"]["signature"] = "nrefs:2"
    (runs[1] / "summary.json").write_text(json.dumps(other), "utf-8")
    assert "signatures differ: not to be compared" in Page(comparison_page(runs[:2])).text
    assert "signatures differ" not in Page(comparison_page([runs[0], runs[2]])).text


def test_an_unfinished_run_is_compared_as_far_as_it_goes(runs: list[Path]) -> None:
    text = Page(comparison_page(runs)).text
    assert "the run is unfinished (the journal ends at step 20 of 20)" in text
    assert "exact_match 0.6667 0.6667 –" in text


def test_names_tell_runs_apart() -> None:
    assert run_names([Path("/x/a/run"), Path("/x/b/run")]) == ["a/run", "b/run"]
    assert run_names([Path("/x/a"), Path("/x/b")]) == ["a", "b"]


def test_refusals(runs: list[Path]) -> None:
    with pytest.raises(RunError, match="named twice"):
        comparison_page([runs[0], runs[1], runs[0] / ".." / "a"])
    with pytest.raises(RunError, match="does not exist"):
        comparison_page([runs[0], runs[0] / "nowhere"])
