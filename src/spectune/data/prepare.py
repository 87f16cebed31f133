"""From the run file's data section to checked examples."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from spectune.config import DataConfig, Task
from spectune.data.columns import Columns, require_column, resolve_columns, source_template
from spectune.data.examples import Built, Example, build_examples
from spectune.data.locations import decode_text, existing_file, read_bytes, resolve_data_path
from spectune.data.report import DataReport, SplitReport, label_notes, overlaps_between
from spectune.data.row_streams import HEAD_ROWS, RowStream, read_streamed_splits
from spectune.data.sources import STARTER, dataset_splits, read_splits, read_table, starter_splits
from spectune.data.splits import sample, train_validation_split
from spectune.data.streaming import ExampleStream
from spectune.data.table import Table
from spectune.data.task import label_names, make_verbalizer, resolve_task
from spectune.data.verbalizer import Verbalizer
from spectune.errors import ConfigError, DataError

STANDARD_INPUT = "-"
_FILE_SUFFIX = re.compile(r"\.[A-Za-z]\w*")  # an id on the hub may end in a version: `owner/data-1.5`
TEXT_SUFFIX = ".txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedData:
    """Checked examples of a run; `validation` and `test` are empty when there are none."""

    train: list[Example]
    """All of them, or the first ones of a stream."""
    validation: list[Example]
    test: list[Example]
    task: Task
    verbalizer: Verbalizer | None
    """Classification only."""
    report: DataReport
    text_columns: tuple[str, ...]
    target_column: str | None
    stream: ExampleStream | None = None
    """The training rows, with `data.streaming`."""

    @property
    def train_rows(self) -> int | None:
        """Number of training examples; None where only their stream knows."""
        return len(self.train) if self.stream is None else None


def prepare_data(config: DataConfig, *, seed: int, need_targets: bool = True) -> PreparedData:
    """Reads, checks, verbalizes and splits the data of a run; a pure function of the files, `config` and `seed`.

    Torch is not imported. Raises DataError, one line, for whatever is wrong with the data, ConfigError for what is
    wrong with the data section.
    """
    source_template(config)  # a broken template is found before a file is read
    rows, tables = _read(config)
    columns = resolve_columns(config, tables["train"], need_targets=need_targets)
    _check_columns(config, tables, columns)
    task = resolve_task(config, tables["train"], columns.target)
    names = label_names(config, tables["train"], columns.target) if columns.target is not None else None
    verbalizer = None
    if task == "classification" and columns.target is not None:
        verbalizer = make_verbalizer(names, tables.values(), columns.target)
    notes: list[str] = []
    built = _build(config, tables, columns, verbalizer, notes)
    splits = _split(config, built, seed, task, notes)
    if verbalizer is not None and rows is not None:
        notes += _stream_label_notes(verbalizer, named=names is not None)
    elif verbalizer is not None:
        labels = Counter(example.label for examples in splits.values() for example in examples if example.label)
        words = dict(zip(verbalizer.labels, verbalizer.words, strict=True))
        notes += label_notes(dict(labels), words, named=names is not None)
    stream = _stream(config, rows, tables["train"], columns, verbalizer)
    return PreparedData(
        train=splits["train"],
        validation=splits.get("validation", []),
        test=splits.get("test", []),
        task=task,
        verbalizer=verbalizer,
        report=_report(tables, built, splits, notes, stream),
        text_columns=columns.text,
        target_column=columns.target,
        stream=stream,
    )


def _read(config: DataConfig) -> tuple[RowStream | None, dict[str, Table]]:
    """All rows as tables; with `data.streaming` the training rows as a stream, and only its first ones as a table."""
    if not config.streaming:
        return None, read_splits(config)
    rows, tables = read_streamed_splits(config)
    return rows, {"train": rows.head(), **tables}


def _stream(
    config: DataConfig, rows: RowStream | None, head: Table, columns: Columns, verbalizer: Verbalizer | None
) -> ExampleStream | None:
    if rows is None:
        return None
    return ExampleStream(
        rows=rows,
        head=head,
        columns=columns,
        prefix=config.source_prefix,
        verbalizer=verbalizer,
        invalid_rows=config.invalid_rows,
        buffer_size=config.shuffle_buffer_size,
    )


def _stream_label_notes(verbalizer: Verbalizer, *, named: bool) -> list[str]:
    if named:
        return []
    return [
        f"labels are those of the first {HEAD_ROWS:,} rows and of the other splits: {verbalizer}; a row with another"
        " one would end the run, so give them all in data.label_names"
    ]


def load_evaluation_examples(
    named: str | os.PathLike[str],
    *,
    config: DataConfig,
    verbalizer: Verbalizer | None,
    need_targets: bool = True,
) -> tuple[list[Example], DataReport]:
    """The examples of a file or data set, read as the run read its own; of a data set the test or validation split.

    Args:
        config: the data section of the run that made the adapter.
        verbalizer: its labels, if it was a classification.

    Raises DataError and ConfigError as `prepare_data` does.
    """
    notes: list[str] = []
    splits = _evaluation_tables(os.fspath(named), config)
    for split, table in splits:
        columns = resolve_columns(config, table, need_targets=need_targets)
        if table is splits[-1][1] or not need_targets or not _withheld(table, columns.target):
            break
        notes.append(_not_used(split, columns.target))
    built = build_examples(
        table, columns, prefix=config.source_prefix, verbalizer=verbalizer, invalid_rows=config.invalid_rows
    )
    report = SplitReport.of(split, table.origin, len(table.rows), built.examples, built.dropped)
    return built.examples, DataReport(splits=[report], notes=notes)


def read_texts(named: str | os.PathLike[str], config: DataConfig) -> tuple[list[Example], DataReport]:
    """Sources without targets, for `spectune predict`.

    `named` is `-` (standard input, one text a line), a `.txt` file (likewise) or whatever `load_evaluation_examples`
    takes. Blank lines are left out and reported. `example.source.removeprefix(config.source_prefix)` is the text
    itself.
    """
    if os.fspath(named) == STANDARD_INPUT:
        table = _text_lines(sys.stdin.buffer.read(), "standard input", config)
    elif Path(named).suffix.lower() == TEXT_SUFFIX:
        path = existing_file(named)
        table = _text_lines(read_bytes(path), str(path), config)
    else:
        return load_evaluation_examples(named, config=config, verbalizer=None, need_targets=False)
    columns = resolve_columns(config, table, need_targets=False)
    built = build_examples(
        table, columns, prefix=config.source_prefix, verbalizer=None, invalid_rows=config.invalid_rows
    )
    report = SplitReport.of("texts", table.origin, len(table.rows), built.examples, built.dropped)
    return built.examples, DataReport(splits=[report])


def texts_to_examples(texts: list[str], config: DataConfig) -> list[Example]:
    """Texts given from Python as sources, prefix and a one-column template applied. Raises DataError for empty ones."""
    table = _one_column(texts, "the texts", config)
    columns = resolve_columns(config, table, need_targets=False)
    return build_examples(table, columns, prefix=config.source_prefix, verbalizer=None, invalid_rows="error").examples


def _text_lines(data: bytes, origin: str, config: DataConfig) -> Table:
    text = decode_text(data, origin)
    # Not splitlines(): form feeds and U+2028 do not end a line for any other tool.
    lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
    if not text.strip():
        raise DataError(f"{origin} is empty")
    return _one_column(lines, origin, config)


def _one_column(texts: list[str], origin: str, config: DataConfig) -> Table:
    columns = source_template(config).columns
    if len(set(columns)) > 1:
        raise DataError(
            f"{origin} holds one text a line, but data.source_template wants the columns {', '.join(columns)};"
            f" give a table"
        )
    return Table(origin=origin, columns=columns[:1], rows=[{columns[0]: text} for text in texts])


def _evaluation_tables(named: str, config: DataConfig) -> list[tuple[str, Table]]:
    """The splits that may be evaluated, the first choice first."""
    if named == STARTER:
        return [("validation", starter_splits()["validation"])]
    path = resolve_data_path(named)
    if not path.is_dir() and (path.exists() or _FILE_SUFFIX.fullmatch(path.suffix)):
        return [(path.stem, read_table(named))]
    tables = dataset_splits(named, config.dataset_config_name if named == config.dataset_name else None)
    held_out = [name for name in ("test", "validation") if name in tables]
    return [(name, tables[name]) for name in held_out or list(tables)[:1]]


def _check_columns(config: DataConfig, tables: dict[str, Table], columns: Columns) -> None:
    for table in tables.values():
        for column in columns.text:
            require_column(table, column, "source_template" if config.source_template else "text_column")
        if columns.target is not None:
            require_column(table, columns.target, "target_column")
    if config.references_column is not None and not any(table.has(columns.references) for table in tables.values()):
        require_column(tables["train"], columns.references, "references_column")


def _build(
    config: DataConfig, tables: dict[str, Table], columns: Columns, verbalizer: Verbalizer | None, notes: list[str]
) -> dict[str, Built]:
    built = {}
    for split, table in tables.items():
        if split == "test" and config.dataset_name is not None and _withheld(table, columns.target):
            notes.append(_not_used(split, columns.target))
            continue
        built[split] = build_examples(
            table, columns, prefix=config.source_prefix, verbalizer=verbalizer, invalid_rows=config.invalid_rows
        )
    return built


def _not_used(split: str, target: str | None) -> str:
    return f"{split}: not used, because its column {target!r} is empty in every row"


def _withheld(table: Table, target: str | None) -> bool:
    """Public benchmarks often leave the targets of their test split out."""
    return target is not None and all(table.value(index, target) is None for index in range(len(table.rows)))


def _split(
    config: DataConfig, built: dict[str, Built], seed: int, task: Task, notes: list[str]
) -> dict[str, list[Example]]:
    splits = {split: result.examples for split, result in built.items()}
    if "validation" not in splits and config.validation_split is not None:
        if config.streaming:
            raise ConfigError(
                "rows of a stream cannot be held out by data.validation_split; give data.validation_file (or a data set"
                " with a validation split), or set data.validation_split: null for a run without validation"
            )
        by_label = task == "classification"
        splits["train"], held = train_validation_split(splits["train"], config.validation_split, seed, by_label)
        splits = {"train": splits["train"], "validation": held, **splits}
        how = "of each label" if by_label else "of the rows"
        notes.append(
            f"validation: drawn, {100 * config.validation_split:.3g}% {how}, no source on both sides, seed {seed}"
        )
    elif "validation" not in splits:
        notes.append("validation: none")
    limits = {
        "train": config.max_train_samples,
        "validation": config.max_validation_samples,
        "test": config.max_test_samples,
    }
    return {split: sample(examples, limits[split], seed) for split, examples in splits.items()}


def _report(
    tables: dict[str, Table],
    built: dict[str, Built],
    splits: dict[str, list[Example]],
    notes: list[str],
    stream: ExampleStream | None,
) -> DataReport:
    reports = []
    if stream is not None:
        notes = [stream.line(), *notes]
        splits = {split: examples for split, examples in splits.items() if split != "train"}
    for split, examples in splits.items():
        source = split if split in built else "train"  # a drawn validation split comes from the training rows
        dropped = built[split].dropped if split in built else {}
        table = tables[source]
        reports.append(SplitReport.of(split, table.origin, len(table.rows), examples, dropped))
    return DataReport(splits=reports, overlaps=overlaps_between(splits), notes=notes)
