"""The whole way from the data section to checked examples."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from tests.data.helpers import NAMES, REVIEWS, config_for, line_of, write, write_rows

from spectune.config import DataConfig
from spectune.data.prepare import load_evaluation_examples, prepare_data, read_texts, texts_to_examples
from spectune.errors import ConfigError, DataError, UserError
from spectune.runfile import dump_run_config, load_run_config

CSV = "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in REVIEWS)


def test_integer_labels_become_words(tmp_path: Path) -> None:
    prepared = prepare_data(
        config_for(write(tmp_path / "a.csv", CSV), label_names=NAMES, source_prefix="sentiment: "), seed=0
    )
    first = prepared.train[0]
    assert (first.row, first.source, first.target, first.label) == (1, "sentiment: profit rose", "positive", "2")
    assert first.references == ("positive",)
    assert (prepared.task, prepared.text_columns, prepared.target_column) == ("classification", ("text",), "label")
    assert prepared.validation == prepared.test == []


def test_integer_labels_without_names_are_reported(tmp_path: Path) -> None:
    prepared = prepare_data(config_for(write(tmp_path / "a.csv", CSV)), seed=0)
    assert prepared.train[0].target == "2"
    assert any("labels are numbers and are written as such" in line for line in prepared.report.lines())


@pytest.mark.parametrize(
    ("labels", "keys"),
    [
        ([0.5, 1.5], "{0.5: low, 1.5: high}"),
        (["007", "1"], "{'007': low, 1: high}"),
        ([True, False], "{true: low, false: high}"),
    ],
)
def test_the_keys_of_label_names_are_what_the_notes_and_yaml_make_of_them(
    tmp_path: Path, labels: list[Any], keys: str
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": f"row {label}", "label": label} for label in labels])
    words = [f"data.train_file={path}", f"data.label_names={keys}", "data.validation_split=null"]
    config = load_run_config(None, [*words, "model.model_name_or_path=m"])
    again = load_run_config(None, base=yaml.safe_load(dump_run_config(config)))
    for one in (config, again):
        assert [example.target for example in prepare_data(one.data, seed=0).train] == ["low", "high"]


def test_right_outputs_alone_are_enough(tmp_path: Path) -> None:
    """As SQuAD has them; the first is learnt."""
    answers = {"text": ["two", "2", "two"], "answer_start": [0, 1, 2]}
    rows = [{"question": "how many", "answers": answers}, {"question": "none", "answers": {"text": []}}]
    path = write_rows(tmp_path / "a.jsonl", rows)
    config = config_for(path, text_column="question", references_column="answers.text")
    (built,) = prepare_data(config, seed=0).train
    assert (built.target, built.references) == ("two", ("two", "2"))
    with pytest.raises(DataError, match=r"must hold a list of texts \(data\.references_column: answers\.text\)"):
        prepare_data(config_for(path, text_column="question", references_column="answers"), seed=0)
    with pytest.raises(DataError, match="neither a column 'target' nor 'label'"):
        prepare_data(config_for(path, text_column="question"), seed=0)


def test_a_list_of_labels_is_told_what_to_become(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "a", "label": ["x", "y"]}])
    with pytest.raises(
        DataError, match=r"a row has one label: join several into one text, and set data\.task: text2text"
    ):
        prepare_data(config_for(path), seed=0)


def test_template_and_free_targets(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"q": "why", "c": "so", "target": "because", "references": ["for", "as"]}])
    prepared = prepare_data(config_for(path, source_template="q: {q} c: {c}"), seed=0)
    assert prepared.task == "text2text"
    assert prepared.verbalizer is None
    assert prepared.train[0].source == "q: why c: so"
    assert prepared.train[0].references == ("because", "for", "as")


def test_references_stand_in_for_a_missing_target(tmp_path: Path) -> None:
    missing = [None, "", "  ", float("nan")]
    rows = [{"text": "a", "target": target, "references": ["x", "y"]} for target in missing]
    built = prepare_data(config_for(write_rows(tmp_path / "a.jsonl", rows)), seed=0).train
    assert [one.target for one in built] == ["x"] * 4


def test_names_of_a_class_label_column_go_by_place_whatever_they_look_like(tmp_path: Path) -> None:
    """`class_encode_column` sorts "10" before "2"; every number was taken for its own name."""
    scores = datasets.Dataset.from_list([{"text": f"scored {score}", "score": score} for score in range(11)])
    encoded = scores.class_encode_column("score")
    encoded.to_parquet(str(tmp_path / "a.parquet"))
    encoded.save_to_disk(tmp_path / "saved")
    for config in (
        config_for(tmp_path / "a.parquet", target_column="score"),
        DataConfig(dataset_name=str(tmp_path / "saved"), target_column="score"),
    ):
        prepared = prepare_data(config, seed=0)
        assert all(one.source == f"scored {one.target}" for one in prepared.train)


def test_unusable_rows_are_dropped_and_reported(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        *REVIEWS,
        {"text": " ", "label": 0},
        {"label": 0},
        {"text": "x", "label": None},
        {"text": "\ud800", "label": 1},
    ]
    prepared = prepare_data(config_for(write_rows(tmp_path / "a.jsonl", rows), label_names=NAMES), seed=0)
    assert [example.row for example in prepared.train] == [1, 2, 3, 4]
    assert prepared.report.splits[0].dropped == {
        "empty column 'text'": [5, 6],
        "empty column 'label'": [7],
        "column 'text' is not valid Unicode": [8],
    }
    assert "train: 2 rows left out, empty column 'text' (rows 5, 6)" in prepared.report.lines()


def test_unusable_rows_are_refused_when_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CSV + ",1\n")
    with pytest.raises(DataError) as error:
        prepare_data(config_for(path, invalid_rows="error"), seed=0)
    assert "1 row: empty column 'text' (row 5); the first is row 5 (line 6)" in line_of(error)


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        ("text,label\n,0\n,1\n", {}, "has no usable row; 2 rows: empty column 'text' (rows 1, 2)"),
        ("text,label\na,\n", {}, "column 'label' is empty in every row"),
        (CSV, {"label_names": {0: "a", 1: "b"}}, "label '2' (rows 1, 4) not in the label names (0 → a, 1 → b)"),
        (CSV, {"label_names": {0: "a", 1: "a", 2: "b"}}, "data.label_names: labels '0' and '1' are both written 'a'"),
        (CSV, {"label_names": "nowhere/labels.json"}, "does not exist"),
        (CSV, {"references_column": "others"}, "no column 'others' (data.references_column)"),
        (CSV, {"source_template": "{text"}, "a brace without a column name"),
        (CSV, {"target_column": "lable"}, "did you mean 'label'?"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, content: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        prepare_data(config_for(write(tmp_path / "a.csv", content), **settings), seed=0)
    assert message in line_of(error)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": ["a"], "target": "x"}, "row 1 (line 1) holds a list in column 'text', not a text"),
        ({"text": {"en": "a"}, "target": "x"}, "write text.en for what is in it"),
        ({"text": "a", "target": ["x"]}, "several right outputs are data.references_column: "),
        ({"text": "a", "target": "x", "references": [1]}, "column 'references' must hold a list of texts"),
    ],
)
def test_cells_that_are_no_text(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError) as error:
        prepare_data(config_for(write_rows(tmp_path / "a.jsonl", [row])), seed=0)
    assert message in line_of(error)


def test_validation_file_must_have_the_columns(tmp_path: Path) -> None:
    train, other = write(tmp_path / "a.csv", CSV), write(tmp_path / "b.csv", "text,Label\na,0\n")
    with pytest.raises(DataError, match=r"b\.csv has no column 'label'.*did you mean 'Label'"):
        prepare_data(config_for(train, validation_file=str(other)), seed=0)


def test_given_splits_are_kept_and_overlaps_reported(tmp_path: Path) -> None:
    train, other = write(tmp_path / "a.csv", CSV), write(tmp_path / "b.csv", "text,label\nPROFIT rose,2\nnew,0\n")
    prepared = prepare_data(config_for(train, validation_file=str(other), label_names=NAMES), seed=0)
    assert len(prepared.validation) == 2
    assert prepared.report.overlaps == {"validation in train": [1]}
    assert "validation: 1 row whose source is also in train (row 1); kept" in prepared.report.lines()
    assert prepared.report.as_dict()["splits"][1]["labels"] == {"negative": 1, "positive": 1}


def test_drawn_validation_and_limits(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text,label\n" + "".join(f"text {n},{n % 2}\n" for n in range(100)))
    config = config_for(path, validation_split=0.2, max_train_samples=30, max_validation_samples=10)
    prepared = prepare_data(config, seed=1)
    assert (len(prepared.train), len(prepared.validation)) == (30, 10)
    assert prepared.report.lines()[0].startswith("train: 30 of 100 rows of")
    assert prepared == prepare_data(config, seed=1)
    assert prepared.train != prepare_data(config, seed=2).train


def test_class_labels_of_a_saved_data_set(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("string"), "cls": datasets.ClassLabel(names=["no", "yes"])})
    rows = datasets.Dataset.from_dict({"text": ["a", "b"], "cls": [0, 1]}, features=features)
    withheld = datasets.Dataset.from_dict({"text": ["c"], "cls": [-1]}, features=features)
    datasets.DatasetDict({"train": rows, "validation": rows, "test": withheld}).save_to_disk(tmp_path / "saved")
    prepared = prepare_data(DataConfig(dataset_name=str(tmp_path / "saved"), target_column="cls"), seed=0)
    assert [example.target for example in prepared.train] == ["no", "yes"]
    assert prepared.task == "classification"
    assert prepared.test == []
    assert any(line.startswith("test: not used") for line in prepared.report.lines())


def test_without_targets(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text\na\n")
    example = prepare_data(config_for(path), seed=0, need_targets=False).train[0]
    assert (example.source, example.target, example.references) == ("a", "", ())


def test_evaluation_reads_as_the_run_did(tmp_path: Path) -> None:
    config = config_for(write(tmp_path / "a.csv", CSV), label_names=NAMES, source_prefix="p: ")
    verbalizer = prepare_data(config, seed=0).verbalizer
    other = write_rows(tmp_path / "b.jsonl", [{"text": "x", "label": 1}])
    examples, report = load_evaluation_examples(other, config=config, verbalizer=verbalizer)
    assert (examples[0].source, examples[0].target) == ("p: x", "neutral")
    assert report.lines()[0] == f"b: 1 rows of {other}"
    bad = write_rows(tmp_path / "c.jsonl", [{"text": "x", "label": 9}])
    with pytest.raises(DataError, match="label '9'"):
        load_evaluation_examples(bad, config=config, verbalizer=verbalizer)


def test_a_test_split_without_targets_is_passed_over(tmp_path: Path) -> None:
    """As GLUE has it, and as `train` does; without targets to ask for it is read."""
    config = config_for(write(tmp_path / "a.csv", CSV), label_names=NAMES)
    verbalizer = prepare_data(config, seed=0).verbalizer
    rows: dict[str, list[int | None]] = {"train": [1, 0], "validation": [1], "test": [None, None]}
    splits = {
        name: datasets.Dataset.from_dict({"text": ["x"] * len(labels), "label": labels})
        for name, labels in rows.items()
    }
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "set")
    examples, report = load_evaluation_examples(tmp_path / "set", config=config, verbalizer=verbalizer)
    assert len(examples) == 1
    assert report.splits[0].name == "validation"
    assert report.notes == ["test: not used, because its column 'label' is empty in every row"]
    examples, report = load_evaluation_examples(tmp_path / "set", config=config, verbalizer=None, need_targets=False)
    assert (len(examples), report.splits[0].name, report.notes) == (2, "test", [])


def test_texts_from_files_streams_and_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_for(tmp_path / "a.csv", source_template="q: {q}", source_prefix="p ")
    lines = "first\r\n\nsecond\f\n"
    examples, report = read_texts(write(tmp_path / "a.txt", lines), config)
    assert [example.source for example in examples] == ["p q: first", "p q: second\f"]
    assert report.splits[0].dropped == {"empty column 'q'": [2]}
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert read_texts("-", config)[0] == examples
    assert read_texts(write(tmp_path / "a.csv", "q\nfirst\n"), config)[0][0] == examples[0]
    assert texts_to_examples(["first"], config)[0] == examples[0]


@pytest.mark.parametrize(("name", "content"), [("a.txt", "\n \n"), ("a.txt", b"caf\xe9"), ("b.txt", "x")])
def test_texts_that_cannot_be_read(tmp_path: Path, name: str, content: str | bytes) -> None:
    write(tmp_path / name, content)
    template = "{a} {b}" if name == "b.txt" else "{a}"
    with pytest.raises(UserError) as error:
        read_texts(tmp_path / name, config_for(tmp_path / "a.csv", source_template=template))
    line_of(error)


def test_a_broken_template_is_found_before_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        prepare_data(config_for(tmp_path / "missing.csv", source_template="{"), seed=0)


def test_no_torch_for_local_files(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", CSV)
    program = (
        "import sys\n"
        "from spectune.config import DataConfig\n"
        "from spectune.data.prepare import prepare_data\n"
        f"prepare_data(DataConfig(train_file={str(path)!r}, validation_split=None), seed=0)\n"
        "print([name for name in ('torch', 'transformers', 'datasets') if name in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("settings", [{"train_file": "starter"}, {"dataset_name": "starter"}])
def test_the_bundled_data(settings: dict[str, str]) -> None:
    config = DataConfig(**settings)
    prepared = prepare_data(config, seed=0)
    assert prepared.verbalizer is not None
    assert prepared.verbalizer.words == ("negative", "neutral", "positive")
    assert prepared.verbalizer.labels == ("0", "1", "2")
    assert len(prepared.train) > len(prepared.validation) > 100
    examples, _ = load_evaluation_examples("starter", config=config, verbalizer=prepared.verbalizer)
    assert examples == prepared.validation


@pytest.mark.parametrize(
    ("name", "settings", "rows", "labels"),
    [
        ("mr_sentiment", {"target_column": "label", "label_names": "labels.json"}, (8528, 1066, 1066), 2),
        ("clinc150", {"task": "classification"}, (8979, 1498, 2999), 150),
        ("scitldr", {"task": "summarization"}, (948, 169, 250), 0),
        ("e2e_nlg", {}, (3876, 60, 630), 0),
    ],
)
def test_real_data(
    data_root: Path, monkeypatch: pytest.MonkeyPatch, name: str, settings: dict[str, Any], rows: Any, labels: int
) -> None:
    monkeypatch.setenv("SPECTUNE_DATA", str(data_root))
    if "label_names" in settings:
        settings = {**settings, "label_names": f"data/{name}/labels.json"}
    prepared = prepare_data(DataConfig(dataset_name=f"data/{name}", **settings), seed=0)
    assert (len(prepared.train), len(prepared.validation), len(prepared.test)) == rows
    assert len(prepared.verbalizer or ()) == labels
    assert prepared.report.overlaps == {}
    assert (max(len(example.references) for example in prepared.test) > 1) == (name in ("scitldr", "e2e_nlg"))
