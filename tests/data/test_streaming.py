"""Streamed training rows: the same examples as in memory, bounded memory, and exact places."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from tests.data.helpers import NAMES, config_for, line_of, write, write_rows
from transformers import PreTrainedTokenizerFast

from spectune.config import DataConfig
from spectune.data import row_streams
from spectune.data.assembly import Assembler, Window
from spectune.data.examples import Example
from spectune.data.prepare import PreparedData, prepare_data
from spectune.data.row_streams import RowStream
from spectune.data.stream_loader import StreamLoader
from spectune.data.streaming import Pass, Tally
from spectune.data.tokenization import tokenize_examples
from spectune.errors import ConfigError, DataError, RunError

ROWS: list[dict[str, Any]] = [
    {"text": f"profit number {n} {'rose' * (n % 7)}".strip(), "label": n % 3} for n in range(230)
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` leaves a lock file for each file it streams."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def streamed(path: Path, **settings: Any) -> PreparedData:
    return prepare_data(config_for(path, streaming=True, **settings), seed=0)


def one_pass(prepared: PreparedData, *, seed: int = 1, epoch: int = 0, tally: Tally | None = None) -> list[Example]:
    assert prepared.stream is not None
    return list(Pass(prepared.stream, seed=seed, epoch=epoch, tally=tally or Tally()).examples)


def by_row(examples: list[Example]) -> list[Example]:
    return sorted(examples, key=lambda example: example.row)


def write_as(path: Path) -> Path:
    """`ROWS` in the format of the extension, some rows without a text."""
    rows = [{**row, "text": row["text"] if n % 50 else ""} for n, row in enumerate(ROWS)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=60)
    elif path.suffix in (".csv", ".tsv"):
        sign = "," if path.suffix == ".csv" else "\t"
        lines = [f'"{row["text"]}{sign} and\nmore"{sign}{row["label"]}' if row["text"] else f"{sign}0" for row in rows]
        write(path, f"text{sign}label\n" + "\n".join(lines) + "\n")
    else:
        write_rows(path, rows)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet"])
def test_an_epoch_has_the_examples_that_memory_has(tmp_path: Path, name: str) -> None:
    path = write_as(tmp_path / name)
    settings: dict[str, Any] = {"label_names": NAMES, "source_prefix": "classify: "}
    whole = prepare_data(config_for(path, **settings), seed=0)
    tally = Tally()
    drawn = one_pass(streamed(path, shuffle_buffer_size=40, **settings), tally=tally)
    assert by_row(drawn) == whole.train
    assert drawn != whole.train, "they are shuffled"
    assert (tally.rows, tally.examples) == (230, 225)
    assert list(tally.dropped) == ["empty column 'text'"]
    found = tally.dropped["empty column 'text'"]
    assert (found["rows"], sorted(found["first"])) == (5, [1, 51, 101, 151, 201])


def test_a_data_set_on_the_disk_brings_its_splits_and_label_names(tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["low", "middle", "high"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    rows = datasets.Dataset.from_list(ROWS, features=features)
    datasets.DatasetDict({"train": rows, "valid": rows.select(range(7))}).save_to_disk(tmp_path / "saved")
    config = DataConfig(dataset_name=str(tmp_path / "saved"), streaming=True, shuffle_buffer_size=30)
    prepared = prepare_data(config, seed=0)
    whole = prepare_data(config.model_copy(update={"streaming": False}), seed=0)
    assert prepared.validation == whole.validation
    assert prepared.verbalizer == whole.verbalizer
    key = [(example.source, example.target) for example in one_pass(prepared)]
    assert sorted(key) == sorted((example.source, example.target) for example in whole.train)


def test_the_hub_is_streamed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def load_dataset(name: str, config_name: str | None, **options: Any) -> Any:
        asked.update(options, name=name, config_name=config_name)
        rows = datasets.Dataset.from_list([{**row, "label": "ab"[row["label"] % 2]} for row in ROWS])
        return {"train": rows.to_iterable_dataset(num_shards=4), "validation": rows.to_iterable_dataset()}

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    prepared = prepare_data(DataConfig(dataset_name="somebody/rows", dataset_revision="v1", streaming=True), seed=0)
    assert asked == {"name": "somebody/rows", "config_name": None, "revision": "v1", "streaming": True}
    assert len(prepared.validation) == 230
    epochs = [[example.source for example in one_pass(prepared, epoch=epoch)] for epoch in (0, 1)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(row["text"] for row in ROWS)
    assert epochs[0] != epochs[1]


def test_epochs_and_seeds_shuffle_otherwise(tmp_path: Path) -> None:
    prepared = streamed(write_rows(tmp_path / "a.jsonl", ROWS), label_names=NAMES, shuffle_buffer_size=50)
    orders = [tuple(e.row for e in one_pass(prepared, seed=seed, epoch=epoch)) for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(1, 231))}
    assert orders[0] == tuple(e.row for e in one_pass(prepared, seed=1, epoch=0))


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({"label": 7}, {}, r"label '7' \(row 1205\) not in the label names"),
        (
            {"text": " "},
            {"invalid_rows": "error"},
            r"\(row 1205\); the first is row 1205 \(line 1205\); mend",
        ),
        ({"text": ["x"]}, {}, r"row 1205 \(line 1205\) holds a list in column 'text', not a text; several right"),
    ],
)
def test_a_mistake_far_down_is_the_same_line(
    tmp_path: Path, change: dict[str, Any], settings: dict[str, Any], message: str
) -> None:
    rows = [{"text": f"a {n}", "label": n % 3} for n in range(1300)]
    rows[1204] |= change
    prepared = streamed(write_rows(tmp_path / "a.jsonl", rows), label_names=NAMES, **settings)
    with pytest.raises(DataError, match=message) as error:
        one_pass(prepared)
    line_of(error)
    with pytest.raises(DataError) as whole:
        prepare_data(config_for(tmp_path / "a.jsonl", label_names=NAMES, **settings), seed=0)
    assert line_of(whole) == line_of(error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text,label\n" + "a,0\n" * 1200 + "b,c,1\n"),
        ("a.csv", "text,label\n" + "a,0\n" * 1200 + '"b,1\n'),
        ("a.csv", ("text,label\n" + "a,0\n" * 9000 + "b\xe9,1\n").encode("latin-1")),
        ("a.csv", "text,label\n" + "a,0\n" * 1200 + "b\0,1\n"),
        ("a.csv", b"\xef\xbb\xbftext,label\n" + b"a,0\n" * 9000 + b"b\xe9,1\n"),
        ("a.jsonl", '{"text": "a", "label": 0}\n' * 1200 + '{"text": \n'),
        ("a.jsonl", '{"text": "a", "label": 0}\n' * 1200 + '{"text": 1, "text": 2}\n'),
        ("a.tsv", "text\tlabel\n" + "a\t0\n" * 1200 + "b\tc\td\n"),
    ],
)
def test_a_damaged_file_is_the_same_line(tmp_path: Path, name: str, content: str | bytes) -> None:
    path = write(tmp_path / name, content)
    prepared = streamed(path)
    with pytest.raises(DataError) as error:
        one_pass(prepared)
    with pytest.raises(DataError) as whole:
        prepare_data(config_for(path), seed=0)
    assert line_of(whole) == line_of(error)


def test_both_kinds_of_tsv(tmp_path: Path) -> None:
    quoted = write(tmp_path / "a.tsv", 'text\tlabel\n"a\tb"\t0\n')
    plain = write(tmp_path / "b.tsv", 'text\tlabel\n"Hm" he said\t0\n"open\t1\n')
    assert [example.source for example in one_pass(streamed(quoted))] == ["a\tb"]
    assert sorted(example.source for example in one_pass(streamed(plain))) == ['"Hm" he said', '"open']


@pytest.mark.parametrize(
    ("name", "content", "settings", "error", "message"),
    [
        ("a.json", '[{"text": "a", "label": 0}]', {}, DataError, "one JSON text, which data.streaming cannot read"),
        ("a.csv", "", {}, DataError, "is empty"),
        ("a.csv", "text,label\n", {}, DataError, "has a header but no rows"),
        ("a.jsonl", "\n", {}, DataError, "is empty"),
        ("a.csv", "words,label\na,0\n", {}, DataError, "has no column 'text'"),
        ("a.csv", "text,label\n,0\n", {}, DataError, "has no usable row; 1 row: empty column 'text'"),
        ("a.csv", "text,label\na,0\n", {"validation_split": 0.1}, ConfigError, "give data.validation_file"),
        ("a.xlsx", "x", {}, DataError, "the extension must be one of"),
    ],
)
def test_refused_before_anything_is_loaded(
    tmp_path: Path, name: str, content: str, settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        streamed(write(tmp_path / name, content), **settings)


def test_max_train_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_train_samples draws from all rows, which a stream does not know"):
        config_for(tmp_path / "a.csv", streaming=True, max_train_samples=5)


def test_labels_of_a_stream_are_those_of_its_head_and_the_validation_rows(tmp_path: Path) -> None:
    train = write(tmp_path / "a.csv", "text,label\n" + "a,good\n" * 1000 + "b,bad\n")
    held = write(tmp_path / "b.csv", "text,label\nc,bad\n")
    prepared = streamed(train, validation_file=str(held))
    assert prepared.verbalizer is not None
    assert prepared.verbalizer.words == ("bad", "good")
    assert any("would end the run, so give them all in data.label_names" in line for line in prepared.report.lines())
    assert len(one_pass(prepared)) == 1001
    with pytest.raises(DataError, match=r"label 'bad' .* not in the label names .*; add to data.label_names"):
        one_pass(streamed(train))


def test_a_connection_that_breaks_is_one_line(tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "a"}
        raise ConnectionError("reset by peer")

    stream = RowStream(
        origin="x, split train", path=None, dataset=datasets.IterableDataset.from_generator(rows), label_names={}
    )
    with pytest.raises(DataError, match="x, split train cannot be read on: the hub cannot be reached"):
        list(stream.shuffled(seed=0, buffer_size=1, epoch=0))


def test_a_cache_of_datasets_that_cannot_be_made_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "file" / "cache"))
    prepared = streamed(write_rows(tmp_path / "a.jsonl", ROWS), label_names=NAMES)
    with pytest.raises(DataError, match=r"cannot be read on: .*Not a directory") as error:
        one_pass(prepared)
    line_of(error)


def test_the_bundled_data_streams_too() -> None:
    prepared = prepare_data(DataConfig(dataset_name="starter", streaming=True), seed=0)
    whole = prepare_data(DataConfig(dataset_name="starter"), seed=0)
    assert prepared.validation == whole.validation
    assert prepared.verbalizer == whole.verbalizer
    assert by_row(one_pass(prepared)) == whole.train


# ---- windows


def loader(prepared: PreparedData, tokenizer: PreTrainedTokenizerFast, **settings: Any) -> StreamLoader:
    assert prepared.stream is not None
    place = {"rank": settings.pop("rank", 0), "world_size": settings.pop("world_size", 1)}
    return StreamLoader(
        prepared.stream,
        tokenizer,
        assembler=Assembler(pad_token_id=0, **place),
        **{
            "max_source_length": 12,
            "max_target_length": 8,
            "batch_size": 4,
            "accumulation_steps": 2,
            "seed": 5,
            **settings,
        },
    )


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedData:
    return streamed(write_as(tmp_path / "a.jsonl"), label_names=NAMES, shuffle_buffer_size=64)


def facts(window: Window) -> tuple[Any, ...]:
    batches = [{name: tensor.tolist() for name, tensor in batch.items()} for batch in window.batches]
    return batches, window.target_tokens, window.source_tokens, window.rows, window.epoch


def epoch_of(stream: StreamLoader) -> list[Window]:
    windows = []
    for window in stream:
        windows.append(window)
        if stream.epoch_ended:
            return windows
    raise AssertionError


def test_every_row_once_an_epoch_in_full_batches(
    prepared: PreparedData, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    stream = loader(prepared, tiny_tokenizer)
    ids = tokenize_examples(prepared.train, tiny_tokenizer, max_source_length=12, max_target_length=8)
    expected = sorted(map(tuple, ids.input_ids))
    assert len(expected) == 225
    for epoch in (1.0, 2.0):
        windows = epoch_of(stream)
        rows = [
            tuple(ids[: sum(mask)])
            for window in windows
            for batch in window.batches
            for ids, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
        ]
        assert sorted(rows) == expected
        assert [window.rows for window in windows[:24]] == [8] * 24, "all windows of a whole block are full"
        assert len(windows) == 29
        assert windows[-1].epoch == epoch
        assert {window.epoch for window in windows[:-1]} == {epoch - 1}


def test_batches_hold_rows_of_near_equal_length(
    prepared: PreparedData, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    batches = [batch for window in epoch_of(loader(prepared, tiny_tokenizer)) for batch in window.batches]
    padding = sum(int((batch["attention_mask"] == 0).sum()) for batch in batches)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    assert padding < 0.08 * tokens


@pytest.mark.parametrize("read", [0, 1, 7, 8, 9, 20, 28, 29, 30, 45, 58])
def test_a_place_is_exact(prepared: PreparedData, tiny_tokenizer: PreTrainedTokenizerFast, read: int) -> None:
    """Blocks have 8 windows, an epoch 29: in a block, at its end, at an epoch's end, in the next epochs."""
    first, second = loader(prepared, tiny_tokenizer), loader(prepared, tiny_tokenizer)
    list(itertools.islice(first, read))
    state = json.loads(json.dumps(first.state_dict()))
    second.load_state_dict(state)
    assert second.state_dict() == state
    assert second.epoch_ended == first.epoch_ended == (read in (29, 58))
    assert second.tally == first.tally, "no row more is read than was"
    for one, other in itertools.islice(zip(first, second, strict=True), 35):
        assert facts(one) == facts(other)
        assert first.state_dict() == second.state_dict()
    assert first.tally == second.tally


def test_changed_rows_are_refused(tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    path = write_rows(tmp_path / "a.jsonl", ROWS)
    settings: dict[str, Any] = {"label_names": NAMES, "shuffle_buffer_size": 16}
    first = loader(streamed(path, **settings), tiny_tokenizer)
    list(itertools.islice(first, 20))
    state = first.state_dict()
    path.write_text(path.read_text("utf-8").replace("number 3 ", "number 33 "), encoding="utf-8")
    with pytest.raises(RunError, match="rows are not what they were; set them back, or start anew"):
        loader(streamed(path, **settings), tiny_tokenizer).load_state_dict(state)
    write_rows(path, ROWS[:40])
    with pytest.raises(RunError, match="rows are not what they were"):
        loader(streamed(path, **settings), tiny_tokenizer).load_state_dict(state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"seed": 6}, "the seed was 6 and is 5 now"),
        ({"shuffle_buffer_size": 9}, "data.shuffle_buffer_size was 9 and is 64 now"),
        ({"window": 99}, "is damaged"),
        ({"place": 3}, "is damaged"),
        ({"epoch": None}, "is damaged"),
    ],
)
def test_places_of_another_stream_are_refused(
    prepared: PreparedData, tiny_tokenizer: PreTrainedTokenizerFast, damage: dict[str, Any], message: str
) -> None:
    stream = loader(prepared, tiny_tokenizer)
    with pytest.raises(RunError, match=message):
        stream.load_state_dict({**stream.state_dict(), **damage})


def test_processes_share_each_window(prepared: PreparedData, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    alone = loader(prepared, tiny_tokenizer)
    ranks = [loader(prepared, tiny_tokenizer, accumulation_steps=1, rank=rank, world_size=2) for rank in (0, 1)]
    for one, *two in itertools.islice(zip(alone, *ranks, strict=True), 28):
        assert facts(one)[0] == [batch for window in two for batch in facts(window)[0]]


def test_memory_is_bounded_by_the_buffer_not_by_the_file(
    tmp_path: Path, tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most, read = 0, 0, 0
    module: Any = row_streams
    records = module._file_records

    class Counted(dict[str, Any]):
        def __init__(self, row: dict[str, Any]) -> None:
            nonlocal alive, most, read
            super().__init__(row)
            alive, read = alive + 1, read + 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def counting(path: str) -> Iterator[dict[str, Any]]:
        return ({**record, "row": Counted(record["row"])} for record in records(path))

    tokenised: list[int] = []

    def tokenize(examples: list[Example], *rest: Any, **lengths: Any) -> Any:
        tokenised.append(len(examples))
        return tokenize_examples(examples, *rest, **lengths)

    path = write_rows(tmp_path / "a.jsonl", [{"text": f"profit {n}", "label": n % 3} for n in range(4000)])
    prepared = streamed(path, label_names=NAMES, shuffle_buffer_size=100)
    monkeypatch.setattr(module, "_file_records", counting)
    monkeypatch.setattr("spectune.data.stream_loader.tokenize_examples", tokenize)
    epoch_of(loader(prepared, tiny_tokenizer))
    assert read == sum(tokenised) == 4000
    assert most <= 100 + 2, "the shuffle buffer, and a row or two on their way"
    assert max(tokenised) <= 100
