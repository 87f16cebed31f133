"""`spectune init` guesses columns, task and label names, and what it writes is a run that `plan` accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import RunCli

from spectune.config import RunConfig
from spectune.data.prepare import prepare_data
from spectune.presets import PRESETS, in_this_run
from spectune.runfile import load_run_config


def _propose(run_cli: RunCli, data: Path | str, tmp_path: Path) -> RunConfig:
    output = tmp_path / "proposed.yaml"
    finished = run_cli("init", data, "--output", output)
    assert finished.status == 0, finished.err
    config = load_run_config(output)
    prepare_data(config.data, seed=1)
    return config


def _table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_numbered_labels_are_listed_to_be_named(run_cli: RunCli, reviews: Path, tmp_path: Path) -> None:
    config = _propose(run_cli, reviews, tmp_path)
    assert (config.data.text_column, config.data.target_column, config.data.task) == ("text", "label", "classification")
    assert config.data.label_names == {0: "0", 1: "1", 2: "2"}


def test_label_names_beside_the_data_are_found(run_cli: RunCli, reviews: Path, tmp_path: Path) -> None:
    reviews.with_name("labels.json").write_text('["bad", "fair", "good"]', encoding="utf-8")
    config = _propose(run_cli, reviews, tmp_path)
    assert config.data.label_names == str(tmp_path / "labels.json")
    assert prepare_data(config.data, seed=1).train[0].target == "bad"


@pytest.mark.parametrize(
    ("columns", "task", "source"),
    [
        (("document", "summary"), "summarization", "document"),
        (("en", "de"), "translation", "en"),
        (("question", "answer"), "text2text", "question"),
        (("id", "Text"), "text2text", "Text"),
    ],
)
def test_tasks_of_texts(run_cli: RunCli, tmp_path: Path, columns: tuple[str, str], task: str, source: str) -> None:
    rows: list[dict[str, object]] = [{name: f"{name} {n} of many" for name in columns} for n in range(40)]
    if columns == ("id", "Text"):
        rows = [{"id": n, "Text": f"text {n}", "Output": f"out {n}"} for n in range(40)]
    config = _propose(run_cli, _table(tmp_path / "rows.jsonl", rows), tmp_path)
    assert (config.data.task, config.data.text_column) == (task, source)


def test_pairs_become_a_template(run_cli: RunCli, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"premise": f"p {n}", "hypothesis": f"h {n}", "label": "yes" if n % 2 else "no"} for n in range(40)
    ]
    config = _propose(run_cli, _table(tmp_path / "nli.jsonl", rows), tmp_path)
    assert config.data.source_template == "premise: {premise} hypothesis: {hypothesis}"
    assert config.data.task == "classification"


def test_what_is_to_be_written_is_never_what_a_pair_is_read_of(run_cli: RunCli, tmp_path: Path) -> None:
    """SQuAD's answers lie in lists, so that the last column of text is the context of the question."""
    squad: list[dict[str, object]] = [
        {"id": f"q{n}", "question": f"Who is {n}?", "context": f"It is {n}.", "answers": {"text": [f"{n}"]}}
        for n in range(20)
    ]
    line = run_cli("init", _table(tmp_path / "squad.jsonl", squad), "-o", tmp_path / "a.yaml").error()
    assert "the column 'answers' looks like what is to be written, but holds lists or mappings" in line
    bare = [{name: row[name] for name in ("id", "question", "context")} for row in squad]
    line = run_cli("init", _table(tmp_path / "bare.jsonl", bare), "-o", tmp_path / "a.yaml").error()
    assert "has id, question, context to read, and no column of what is to be written" in line
    flat = [{**row, "reply": f"the {n}th"} for n, row in enumerate(bare)]
    config = _propose(run_cli, _table(tmp_path / "flat.jsonl", flat), tmp_path)
    assert config.data.source_template == "question: {question} context: {context}"
    assert config.data.target_column == "reply"


def test_texts_in_a_column_of_mappings_are_read_and_written(run_cli: RunCli, tmp_path: Path) -> None:
    """The layout of translations on the hub; its column is called like a target, and is no list."""
    rows: list[dict[str, object]] = [{"id": n, "translation": {"en": f"the {n}", "de": f"das {n}"}} for n in range(20)]
    config = _propose(run_cli, _table(tmp_path / "rows.jsonl", rows), tmp_path)
    assert (config.data.text_column, config.data.target_column) == ("translation.en", "translation.de")
    assert "Not used" not in (tmp_path / "proposed.yaml").read_text("utf-8")


def test_an_instruction_goes_with_its_input_and_what_is_not_used_is_said(run_cli: RunCli, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"id": n, "instruction": f"Do {n}", "input": f"with {n}", "output": f"done {n}", "comment": "good"}
        for n in range(20)
    ]
    config = _propose(run_cli, _table(tmp_path / "rows.jsonl", rows), tmp_path)
    assert config.data.source_template == "instruction: {instruction} input: {input}"
    assert config.data.target_column == "output"
    assert ", comment. Not used: comment.\n" in (tmp_path / "proposed.yaml").read_text("utf-8")


def test_limits_leave_room_for_scripts_of_many_bytes(run_cli: RunCli, tmp_path: Path) -> None:
    """A byte-level tokenizer makes up to three tokens of a Chinese character."""
    rows: list[dict[str, object]] = [{"text": "中" * 100 + str(n), "target": "文" * 40 + str(n)} for n in range(20)]
    config = _propose(run_cli, _table(tmp_path / "rows.jsonl", rows), tmp_path)
    assert config.data.max_source_length >= 302
    assert config.data.max_target_length >= 122


def test_validation_beside_train_is_found(run_cli: RunCli, tmp_path: Path) -> None:
    for name in ("train", "dev"):
        _table(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n}", "target": f"{n} {name}"} for n in range(30)])
    config = _propose(run_cli, tmp_path / "train.jsonl", tmp_path)
    assert config.data.validation_file == str(tmp_path / "dev.jsonl")


def test_starter_data(run_cli: RunCli, tmp_path: Path) -> None:
    assert _propose(run_cli, "starter", tmp_path).data.label_names == {0: "negative", 1: "neutral", 2: "positive"}


def test_many_rows_bring_a_word_on_streaming(
    run_cli: RunCli, reviews: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _propose(run_cli, reviews, tmp_path)
    assert "streaming" not in (tmp_path / "proposed.yaml").read_text("utf-8")
    monkeypatch.setattr("spectune.proposal._MANY_ROWS", 100)
    (tmp_path / "proposed.yaml").unlink()
    _propose(run_cli, reviews, tmp_path)
    assert "# streaming: true" in (tmp_path / "proposed.yaml").read_text("utf-8")


def test_one_column_is_not_enough(run_cli: RunCli, tmp_path: Path) -> None:
    table = _table(tmp_path / "one.jsonl", [{"text": "a"}, {"text": "b"}])
    assert "needs a column of texts and one of targets" in run_cli("init", table, "--output", tmp_path / "x").error()


def test_an_existing_file_is_kept(run_cli: RunCli, reviews: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.yaml"
    output.write_text("mine", encoding="utf-8")
    run_cli("init", reviews, "--output", output).error()
    assert output.read_text(encoding="utf-8") == "mine"
    assert run_cli("init", reviews, "--output", output, "--overwrite").status == 0


def test_a_translation_is_asked_for_its_languages(tmp_path: Path, run_cli: RunCli) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("en,es\n" + "".join(f"good day {n},buen día {n}\n" for n in range(30)), encoding="utf-8")
    output = tmp_path / "run.yaml"
    assert run_cli("init", table, "--output", output).status == 0
    assert "source_lang: null" in output.read_text(encoding="utf-8")
    assert load_run_config(output).data.source_lang is None


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_keeps_what_it_decides(run_cli: RunCli, tmp_path: Path, name: str) -> None:
    output = tmp_path / "run.yaml"
    assert run_cli("init", "starter", "--output", output, "--preset", name).status == 0
    config = load_run_config(output)
    assert config.preset == name
    assert in_this_run(name, config.model_dump())[1] == {}
    assert "choose from paper" in run_cli("init", "starter", "--output", tmp_path / "x", "--preset", "a").error()


def test_a_number_is_no_source_and_references_are_read(run_cli: RunCli, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"id": n, "document": f"text {n}", "summaries": ["a", "b"]} for n in range(20)]
    only = _table(tmp_path / "only.jsonl", rows)
    assert "has no column of texts beside 'document'" in run_cli("init", only, "-o", tmp_path / "x.yaml").error()
    rows = [{"document": f"text {n} of many", "summary": f"sum {n}", "references": ["a", "b"]} for n in range(40)]
    _propose(run_cli, _table(tmp_path / "rows.jsonl", rows), tmp_path)
    assert "Not used" not in (tmp_path / "proposed.yaml").read_text("utf-8")


def test_what_to_do_next_can_be_pasted(run_cli: RunCli, reviews: Path, tmp_path: Path) -> None:
    place = tmp_path / "läuf datei.yaml"
    assert run_cli("init", reviews, "-o", place).out.endswith(f"then: spectune plan '{place}'\n")
