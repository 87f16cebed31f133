from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from tests.report.reading import Page
from tests.report.run_directory import MODULES, journal, make_run, rank, summary, write_lines

from spectune.errors import RunError
from spectune.report.page import run_page

SECTIONS = {"training", "ranks", "scores", "data", "metrics", "confusion", "predictions", "settings"}
ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&{{ 7*7 }}"
LARGEST = 6_000_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that came to its end."""
    return make_run(tmp_path / "run")


def page(directory: Path) -> Page:
    """The run's page, read back."""
    html = run_page(directory)
    assert len(html.encode()) < LARGEST
    return Page(html)


def missing_lines(found: Page) -> bool:
    """Whether the page says that something is missing."""
    return any(values.get("class") == "missing" for _, values in found.tags)


def test_everything_has_its_place(run: Path) -> None:
    found = page(run)
    assert found.ids >= SECTIONS
    assert not missing_lines(found)
    assert set(found.data["figures"]) == {
        *("loss", "penalty", "rate", "budget", "shares", "groups", "thresholds", "source_lengths", "target_lengths"),
        *(f"scores_{step}" for step in (9, 10, 11, 12)),
    }
    for words in (
        "finished, 20 of 20 steps",
        "warm-up: steps 1 to 4 decrease: steps 5 to 12 frozen: steps 13 to 20",
        "nrefs:1|strip:outer|case:mixed",
        "wrote the same texts for 6 rows",
        "train: 3 rows left out, empty text",
        "5 (7.9 %) / 0 (0.0 %)",
        "trainable after the freeze 26,000",
        "1:15 min",
        "torch 2.13.0",
        "learning_rate 0.001",
        "negative 1 50 % 1 50 % 0 0 % 0 0 % 2",
    ):
        assert words in found.text, words


def test_every_figure_is_one_that_plotly_accepts(run: Path) -> None:
    found = page(run)
    for name, figure in found.data["figures"].items():
        checked = go.Figure(figure)  # refuses unknown and wrong properties
        assert checked.layout.xaxis.title.text, name
        assert checked.layout.yaxis.title.text, name


def test_curves_are_the_journals_numbers(run: Path) -> None:
    figures = page(run).data["figures"]
    loss, evaluation = figures["loss"]["data"]
    assert loss["x"] == list(range(1, 21))
    assert loss["y"] == [6.0 / step**2 for step in range(1, 21)]
    assert evaluation["x"] == [0, 10, 20]
    assert figures["loss"]["layout"]["yaxis"]["type"] == "log"
    bands = [(band["x0"], band["x1"]) for band in figures["loss"]["layout"]["shapes"]]
    assert bands == [(0, 4), (4, 12), (12, 20)]
    assert len({tuple(trace["line"].items()) for trace in (loss, evaluation)}) == 2
    assert loss["line"]["dash"] != evaluation["line"]["dash"], "told apart without colour"


def test_the_slider_has_every_allocation_and_the_table_the_last_one(run: Path) -> None:
    found = page(run)
    frames = found.data["ranks"]["frames"]
    assert frames[0] == [12] * len(MODULES)
    assert frames[1:] == [[rank(place, step) for place in range(len(MODULES))] for step in range(5, 13)]
    cells = {int(str(values["data-i"])): values["title"] for tag, values in found.tags if "data-i" in values}
    assert cells == dict(enumerate(MODULES))
    assert f"layer q k v o in out 0 {' '.join(str(rank(place, 12)) for place in (0, 1, 2, 3, 8, 9))}" in found.text


def test_predictions_are_marked_right_and_wrong(run: Path) -> None:
    found = page(run)
    rows = found.data["predictions"]
    assert [row[5] for row in rows] == [1, 0, 1, 1, 0, 1]
    assert rows[5][2:5] == ["sentence 6", "a | positive", "positive"]
    assert "all 6 ✗ wrong 2 ✓ right 4" in found.text


def test_test_rows_can_be_chosen_apart(run: Path) -> None:
    assert "split" not in page(run).ids
    write_lines(run / "test_predictions.jsonl", [{"text": "t", "target": "a", "prediction": "a"}])
    found = page(run)
    assert "split" in found.ids
    assert found.data["predictions"][-1] == ["test", 1, "t", "a", "a", 1]


def test_many_predictions_leave_room_for_the_rest(run: Path) -> None:
    rows = [{"text": "<&'>" * 200, "target": "a", "prediction": "ab"[n % 2]} for n in range(4000)]
    write_lines(run / "predictions.jsonl", rows)
    found = page(run)
    right = sum(row[5] for row in found.data["predictions"])
    wrong = len(found.data["predictions"]) - right
    assert right > 10
    assert wrong > 10
    assert "all 4,000 ✗ wrong 2,000 ✓ right 2,000" in found.text
    assert f"The page holds {right + wrong:,} of 4,000 rows" in found.text


def hostile(value: Any) -> Any:
    """Every text of a JSON value with an attack at its end, keys of mappings of the data too."""
    if isinstance(value, str):
        return value + ATTACK
    if isinstance(value, list):
        return [hostile(entry) for entry in value]
    if isinstance(value, dict):
        return {key: hostile(entry) for key, entry in value.items()}
    return value


def test_texts_of_all_kinds_stay_texts(run: Path) -> None:
    events = [hostile(event) | {"event": event["event"]} for event in journal()]
    for event in events:
        if event["event"] == "allocation":
            event["ranks"] = {name + ATTACK: rank for name, rank in event["ranks"].items()}
        if event["event"] == "evaluation":
            event["metrics"] = {name + ATTACK: value for name, value in event["metrics"].items()}
        if event["event"] == "start":
            splits = event["data"]["splits"]
            splits["train"]["labels"] = {ATTACK: 3}
            event["data"]["splits"] = {name + ATTACK: split for name, split in splits.items()}
    write_lines(run / "journal.jsonl", events)
    total = hostile(summary())
    total["metrics"] = {name + ATTACK: entry for name, entry in total["metrics"].items()}
    (run / "summary.json").write_text(json.dumps(total), encoding="utf-8")
    write_lines(run / "predictions.jsonl", [{"text": ATTACK, "target": ATTACK, "prediction": ATTACK + "\u2028"}])
    (run / "run.yaml").write_text(json.dumps({ATTACK: {ATTACK: ATTACK}, "data": {"task": ATTACK}}), encoding="utf-8")
    found = page(run)
    assert len(found.scripts) == 3
    assert not any(tag == "img" or "onerror" in values for tag, values in found.tags)
    assert "49" not in re.findall(r"\{\{ 7\*7 \}\}|\b49\b", found.text)
    assert found.data["predictions"][0][3] == ATTACK
    assert ATTACK in found.text


def test_nothing_is_loaded_and_only_known_scripts_run(run: Path) -> None:
    html = run_page(run)
    found = Page(html)
    assert not any({"src", "srcset"} & set(values) for _, values in found.tags)
    assert not any(tag in ("link", "iframe", "object", "base") for tag, _ in found.tags)
    policy = next(str(v["content"]) for _, v in found.tags if v.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy.split("style-src")[0]


def test_a_run_on_its_way(run: Path) -> None:
    (run / "summary.json").unlink()
    (run / "predictions.jsonl").unlink()
    lines = (run / "journal.jsonl").read_text("utf-8").splitlines()
    (run / "journal.jsonl").write_text("\n".join(lines[:12]) + "\n" + lines[12][:40], "utf-8")
    found = page(run)
    assert "the run is unfinished (the journal ends at step 7 of 20)" in found.text
    assert "journal.jsonl: 1 line (13) is damaged and left out" in found.text
    assert found.ids >= {"training", "ranks", "scores", "data", "metrics", "settings"}
    assert not found.ids & {"confusion", "predictions"}
    assert "trainable at the start 40,000" in found.text
    assert len(found.data["figures"]["loss"]["data"][0]["x"]) == 6


def test_nothing_but_the_run_file(run: Path) -> None:
    for name in ("journal.jsonl", "summary.json", "predictions.jsonl"):
        (run / name).unlink()
    found = page(run)
    assert "journal.jsonl is missing: curves" in found.text
    assert "init_r 12" in found.text
    assert found.data["figures"] == {}


@pytest.mark.parametrize("content", ["{", "[1, 2]", "null", '{"metrics": 3, "ranks": [1], "confusion": {"rows": "x"}}'])
def test_a_broken_summary(run: Path, content: str) -> None:
    (run / "summary.json").write_text(content, "utf-8")
    found = page(run)
    assert found.ids >= {"training", "ranks", "scores", "predictions"}
    assert "confusion" not in found.ids
    assert missing_lines(found) == (content[:2] != '{"')
    assert ("end unknown, step 20 of 20" in found.text) == missing_lines(found)


def test_bytes_that_are_no_text_and_numbers_that_are_none(run: Path) -> None:
    events = journal()
    for event in events:
        if event["event"] == "step":
            event["loss"] = [math.nan, math.inf, "high", None, 1e308 * 10, -1, [2]][event["step"] % 7]
    write_lines(run / "journal.jsonl", events)
    (run / "predictions.jsonl").write_bytes(
        b'{"text": "\xff\xfe", "target": "a", "prediction": "\\ud800"}\n{"text": 3}\nnull\n[]\n'
    )
    (run / "run.yaml").write_text("a: [", "utf-8")
    found = page(run)
    assert set(found.data["figures"]["loss"]["data"][0]["y"]) == {None, -1}
    assert found.data["predictions"] == [["validation", 1, "��", "a", "�", 0]]
    assert "predictions.jsonl: 3 lines (2, 3, 4) are damaged and left out" in found.text
    assert "settings: run.yaml: line 1" in found.text


@pytest.mark.parametrize(
    "junk",
    [None, 7, "x", [], {}, [[]], {"a": {"b": []}}, True, -1, 10**400, {"splits": [1]}],
    ids=lambda v: repr(v)[:16],
)
def test_any_field_may_be_anything(run: Path, junk: Any) -> None:
    """Every field of every event and of the summary in turn is replaced; the page is made all the same."""
    for key in ("schedule", "budget", "parameters", "matrices", "steps_per_epoch", "device", "versions", "data"):
        events = journal()
        events[0][key] = junk
        for event in events[1:]:
            for name in ("ranks", "scores", "budget", "threshold", "metrics", "signatures", "seconds", "live", "first"):
                if name in event and event["step"] % 2:
                    event[name] = junk
        write_lines(run / "journal.jsonl", events)
        total = summary()
        for name in list(total)[:: 2 if key < "m" else 1]:
            total[name] = junk
        (run / "summary.json").write_text(json.dumps(total), "utf-8")
        found = page(run)
        assert "settings" in found.ids
        for figure in found.data["figures"].values():
            go.Figure(figure)


def test_a_budget_in_parameters_has_its_own_axis(run: Path) -> None:
    events = journal()
    events[0]["budget"] = {"unit": "parameters", "initial": 90_000, "target": 50_000}
    write_lines(run / "journal.jsonl", events)
    figures = page(run).data["figures"]
    assert figures["budget"]["layout"]["yaxis"]["title"]["text"] == "parameters"
    assert figures["live"]["layout"]["yaxis"]["title"]["text"] == "live rank, all matrices"


def test_a_long_run_is_thinned(run: Path) -> None:
    steps = [{"event": "step", "step": n, "loss": 2.0, "penalty": 0.0, "live": 1} for n in range(1, 30_001)]
    write_lines(run / "journal.jsonl", steps)
    loss = page(run).data["figures"]["loss"]["data"][0]
    assert len(loss["x"]) <= 800
    assert loss["x"][-1] == 30_000
    assert set(loss["y"]) == {2.0}


def test_refusals(run: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}", "utf-8")
    for place, words in (
        (tmp_path / "nowhere", "does not exist"),
        (run / "run.yaml", "is a file"),
        (tmp_path, "is no run directory"),
        (tmp_path / "adapter", "name the run directory around it"),
    ):
        with pytest.raises(RunError, match=words):
            run_page(place)
