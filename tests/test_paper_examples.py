"""The paper's runs: every file plans to the paper's steps, on rows of the shape that the hub has."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from examples.paper.tables import SOURCES, UNANSWERABLE, answers, main, similarity, write_tables

from spectune.config import RunConfig
from spectune.data.table import Table
from spectune.planning import Plan, plan_run
from spectune.runfile import load_run_config

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "paper"
PAGE = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
COLUMNS = {
    "EdinburghNLP/xsum": ("document", "summary", "id"),
    "abisee/cnn_dailymail": ("article", "highlights", "id"),
    "rte": ("sentence1", "sentence2", "label", "idx"),
    "qnli": ("question", "sentence", "label", "idx"),
    "mrpc": ("sentence1", "sentence2", "label", "idx"),
    "qqp": ("question1", "question2", "label", "idx"),
    "sst2": ("sentence", "label", "idx"),
    "cola": ("sentence", "label", "idx"),
}
"""Columns on the hub, by data set or, in GLUE, by configuration."""


@dataclass(frozen=True)
class Task:
    """A row of the paper's tables, and the number of training rows."""

    rows: int
    batch: int
    epochs: int
    rate: float
    gamma: float
    tinit: int
    interval: int
    tfinal: int
    warmup: int
    total: int


TASKS = {
    "xsum": Task(204_045, 64, 25, 5e-4, 0.1, 6000, 100, 50_000, 3000, 79_725),
    "cnn_dailymail": Task(287_113, 32, 15, 5e-4, 0.1, 5000, 100, 85_000, 3000, 134_595),
    "glue_mnli": Task(392_702, 32, 7, 5e-4, 0.1, 8000, 100, 50_000, 1000, 85_904),
    "glue_rte": Task(2490, 32, 50, 1.2e-3, 0.3, 600, 1, 1800, 200, 3900),
    "glue_qnli": Task(104_743, 32, 5, 1.2e-3, 0.1, 2000, 100, 8000, 500, 16_370),
    "glue_mrpc": Task(3668, 32, 30, 1e-3, 0.1, 600, 1, 1800, 345, 3450),
    "glue_qqp": Task(363_846, 32, 5, 5e-4, 0.1, 8000, 100, 25_000, 2000, 56_855),
    "glue_sst2": Task(67_349, 32, 24, 8e-4, 0.1, 6000, 100, 22_000, 1000, 50_520),
    "glue_cola": Task(8551, 32, 25, 5e-4, 0.5, 800, 10, 3500, 100, 6700),
    "glue_stsb": Task(5749, 32, 25, 2.2e-3, 0.1, 800, 10, 2000, 100, 4500),
    "squad_v1": Task(87_599, 16, 10, 1e-3, 0.1, 5000, 100, 25_000, 1000, 54_750),
    "squad_v2": Task(130_319, 16, 12, 1e-3, 0.1, 5000, 100, 50_000, 1000, 97_740),
}


def hub(name: str, config_name: str | None, revision: str | None) -> dict[str, Table]:
    """What the hub would give, in small; GLUE's test labels are withheld."""
    columns = COLUMNS[config_name if name == "nyu-mll/glue" else name]  # type: ignore[index]
    tables = {}
    for split in ("train", "validation", "test"):
        rows: list[dict[str, Any]] = [{column: f"{split} {column} {n}" for column in columns} for n in range(40)]
        for number, row in enumerate(rows):
            if "label" in row:
                row["label"] = None if split == "test" else number % 2
        names = {"label": ("a", "b")} if "label" in columns else {}
        tables[split] = Table(origin=f"{name}, split {split}", columns=columns, rows=rows, label_names=names)
    return tables


def squad(number: int) -> dict[str, Any]:
    texts = ["one", "one", " two "] if number % 3 else []
    return {"context": f"context {number}", "question": f" q {number}?", "answers": {"text": texts}}


def raw_rows(name: str) -> list[dict[str, Any]]:
    """Rows as the hub has them, of the tasks that `tables.py` writes."""
    if name.startswith("squad"):
        return [squad(number) for number in range(30)]
    keys = ("premise", "hypothesis") if name == "mnli" else ("sentence1", "sentence2")
    labels = [number % 3 if name == "mnli" else number / 7 for number in range(30)]
    return [{**{key: f"{key} {label} {n}" for key in keys}, "label": label, "idx": n} for n, label in enumerate(labels)]


def planned(name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[RunConfig, Plan]:
    monkeypatch.setattr("spectune.data.sources.load_hub", hub)
    monkeypatch.setenv("SPECTUNE_DATA", str(directory))
    table = name.removeprefix("glue_")
    if table in SOURCES:
        splits = {split: raw_rows(table) for split in SOURCES[table].splits.values()}
        write_tables(table, splits, directory / "paper" / table)
    local = ROOT / "tests" / "configs" / "bart-large"
    assert load_run_config(FOLDER / f"{name}.yaml").model.model_name_or_path == "facebook/bart-large"
    config = load_run_config(FOLDER / f"{name}.yaml", [f"model.model_name_or_path={local}"])
    return config, plan_run(config)


def test_there_is_a_file_for_every_task() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_the_plan_is_the_papers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS[name]
    config, plan = planned(name, tmp_path, monkeypatch)
    schedule, train = plan.schedule, config.train
    assert config.preset == "paper"
    assert train.per_device_train_batch_size * train.gradient_accumulation_steps == task.batch
    assert schedule.total_step == task.total == math.ceil(task.rows / task.batch) * task.epochs
    assert (schedule.tinit, schedule.deltaT, schedule.tfinal) == (task.tinit, task.interval, task.tfinal)
    assert (schedule.init_r, schedule.target_r) == (12, 8)
    assert (train.learning_rate, train.lr_scheduler_type, plan.rate.warmup_steps) == (task.rate, "linear", task.warmup)
    assert config.adapter.orth_reg_weight == task.gamma
    assert config.adapter.lora_alpha == (16 if name in ("glue_mnli", "glue_qqp", "glue_sst2", *squads()) else 32)
    assert plan.target_budget == 8 * 192
    assert not plan.notes


def squads() -> list[str]:
    return [name for name in TASKS if name.startswith("squad")]


@pytest.mark.parametrize("name", TASKS)
def test_the_page_has_the_same_numbers(name: str) -> None:
    task = TASKS[name]
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{name}` |")]
    cells = [cell.strip().replace(",", "") for cell in row.strip("|").split("|")][1:]
    values = (task.rate, task.batch, task.epochs, task.gamma, task.tinit, task.interval, task.tfinal, task.warmup)
    assert [float(cell) for cell in cells[:9]] == [*map(float, values), float(task.total)]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_head_says_what_to_do(path: Path) -> None:
    head = path.read_text(encoding="utf-8").split("preset:")[0]
    assert f"spectune train examples/paper/{path.name}" in head
    assert "Not run by us" in head
    named = re.findall(r"tables\.py (\w+)", head)
    assert named == ([path.stem.removeprefix("glue_")] if "data/paper/" in path.read_text(encoding="utf-8") else [])
    assert set(named) <= set(SOURCES)


def test_answers_are_taken_out() -> None:
    row = {"question": " who? ", "context": "c", "answers": {"text": ["A", "a", "A "], "answer_start": [1, 2, 3]}}
    assert answers(row) == {"question": "who?", "context": "c", "target": "A", "references": ["A", "a"]}
    assert answers({**row, "answers": {"text": []}})["references"] == [UNANSWERABLE]


@pytest.mark.parametrize(("score", "text"), [(0.0, "0.0"), (5.0, "5.0"), (3.8, "3.8"), (3.75, "3.8"), (2.09, "2.0")])
def test_scores_become_texts(score: float, text: str) -> None:
    assert similarity({"sentence1": "a", "sentence2": "b", "label": score})["target"] == text


def test_the_command_writes_what_the_hub_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def load_dataset(*named: str | None) -> dict[str, list[dict[str, Any]]]:
        asked.append(named)
        return {"train": raw_rows("mnli"), "validation_matched": raw_rows("mnli")[:2], "validation_mismatched": []}

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setenv("SPECTUNE_DATA", str(tmp_path))
    main(["mnli"])
    assert asked == [("nyu-mll/glue", "mnli")]
    files = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert files == [tmp_path / "paper" / "mnli" / f"{name}.jsonl" for name in ("train", "validation", "test")]
    first = json.loads(files[1].read_text(encoding="utf-8").splitlines()[0])
    assert first == {"premise": "premise 0 0", "hypothesis": "hypothesis 0 0", "label": 0}
    assert files[2].read_text(encoding="utf-8") == ""


@pytest.mark.parametrize("words", [[], ["rte"], ["mnli", "a", "b"]])
def test_another_name_is_one_line(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="give one of mnli, stsb, squad_v1, squad_v2"):
        main(words)
