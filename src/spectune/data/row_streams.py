"""Training rows that are read one by one, for data larger than memory: the streaming side of `sources`.

Files are read by the same functions as tables are, so that a row is the same row either way; what `datasets` keeps on
a disk or on the hub is read by itself. Both come as a `datasets.IterableDataset`, whose shuffle buffer is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from spectune.config import DataConfig
from spectune.data.columnar import (
    hub_reason,
    names_in_features,
    open_hub,
    open_saved,
    parquet_label_names,
    stream_parquet,
    without_withheld,
)
from spectune.data.delimited import stream_csv, stream_tsv
from spectune.data.json_files import stream_json, stream_json_lines
from spectune.data.locations import existing_file, resolve_data_path
from spectune.data.sources import (
    STARTER,
    STARTER_LABELS,
    check_hub_id,
    check_train,
    is_saved_dataset,
    read_table,
    split_files,
    starter_splits,
    usual_splits,
)
from spectune.data.table import Numbered, Table
from spectune.errors import DataError, UserError

HEAD_ROWS = 1000

STREAMS: Mapping[str, Callable[[Path], Iterator[Numbered]]] = {
    ".csv": stream_csv,
    ".tsv": stream_tsv,
    ".json": stream_json,
    ".jsonl": stream_json_lines,
    ".ndjson": stream_json_lines,
    ".parquet": stream_parquet,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A row as a pass over the stream gives it."""

    number: int
    """In a file, that of the row; in a data set, the place in this pass: shards are read in another order each time."""
    line: int | None
    row: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStream:
    """The rows of a training set, read anew in each pass: of a file, or of what `datasets` has opened. Final."""

    origin: str
    path: Path | None
    dataset: Any
    """A `datasets.IterableDataset`; None for a file."""
    label_names: Mapping[str, tuple[str, ...]]

    def head(self) -> Table:
        """The first 1,000 rows, as a table of their own."""
        drawn = list(islice(self._drawn(self._in_order), HEAD_ROWS))
        if not drawn:
            raise DataError(f"{self.origin} holds no rows")
        return self.table(drawn, dict.fromkeys(name for one in drawn for name in one.row))

    def table(self, drawn: list[Drawn], columns: Mapping[str, object]) -> Table:
        """Some of the rows as a table that has `columns`."""
        return Table(
            origin=self.origin,
            columns=tuple(columns),
            rows=[one.row for one in drawn],
            numbers=[one.number for one in drawn],
            lines=[one.line or 0 for one in drawn] if drawn[0].line is not None else None,
            label_names=self.label_names,
        )

    def shuffled(self, *, seed: int, buffer_size: int, epoch: int) -> Iterator[Drawn]:
        """All rows once, in the order of `datasets`' shuffle buffer: a function of the data and the arguments.

        Shards, where there are several, come in another order in each epoch.

        Raises:
            DataError: a row that cannot be read, when it is reached.
        """
        return self._drawn(lambda: self._shuffled(seed, buffer_size, epoch))

    def _shuffled(self, seed: int, buffer_size: int, epoch: int) -> Any:
        from datasets import IterableDataset

        if self.path is None:
            shuffled = self.dataset.shuffle(seed=seed, buffer_size=buffer_size)
        else:
            dataset = IterableDataset.from_generator(_file_records, gen_kwargs={"path": str(self.path)})
            # One file: nothing to interleave, and no thread for it, which would take longer than the reading.
            shuffled = dataset.shuffle(seed=seed, buffer_size=buffer_size, max_buffer_input_shards=1)
        shuffled.set_epoch(epoch)
        return shuffled

    def whole(self) -> Table:
        """All rows, in memory: what a validation or test split is."""
        rows = [one.row for one in self._drawn(self._in_order)]
        if not rows:
            raise DataError(f"{self.origin} holds no rows")
        columns = tuple(dict.fromkeys(column for row in rows for column in row))
        return Table(origin=self.origin, columns=columns, rows=rows, label_names=self.label_names)

    def _in_order(self) -> Iterable[Any]:
        return self.dataset if self.path is None else _file_records(str(self.path))

    def _drawn(self, opened: Callable[[], Iterable[Any]]) -> Iterator[Drawn]:
        try:
            for number, record in enumerate(opened(), start=1):
                if self.path is not None:
                    yield Drawn(**record)
                else:
                    yield Drawn(number=number, line=None, row=without_withheld(record, self.label_names))
        except UserError:
            raise
        except Exception as error:  # whatever `datasets`, its readers and the network raise
            raise DataError(f"{self.origin} cannot be read on: {hub_reason(error)}") from error


def read_streamed_splits(config: DataConfig) -> tuple[RowStream, dict[str, Table]]:
    """The training rows as a stream, and the other splits as tables. Raises DataError as `read_splits` does."""
    if STARTER in (config.train_file, config.dataset_name):
        tables = starter_splits()
        stream = stream_file(tables.pop("train").origin, {"label": STARTER_LABELS})
    elif config.dataset_name is not None:
        stream, tables = _stream_dataset(config, config.dataset_name)
    else:
        assert config.train_file is not None  # DataConfig wants one of the two
        stream, tables = stream_file(config.train_file), {}
    given = {"validation": config.validation_file, "test": config.test_file}
    return stream, tables | {split: read_table(file) for split, file in given.items() if file is not None}


def stream_file(named: str | Path, label_names: Mapping[str, tuple[str, ...]] | None = None) -> RowStream:
    """The rows of a file. Raises DataError for an extension that nobody reads."""
    path = existing_file(named)
    suffix = path.suffix.lower()
    if suffix not in STREAMS:
        raise DataError(f"{path}: the extension must be one of {', '.join(STREAMS)}")
    if label_names is None:
        label_names = parquet_label_names(path) if suffix == ".parquet" else {}
    return RowStream(origin=str(path), path=path, dataset=None, label_names=label_names)


def _file_records(path: str) -> Iterator[dict[str, Any]]:
    place = Path(path)
    for number, (line, row) in enumerate(STREAMS[place.suffix.lower()](place), start=1):
        yield {"number": number, "line": line, "row": row}


def _stream_dataset(config: DataConfig, name: str) -> tuple[RowStream, dict[str, Table]]:
    path = resolve_data_path(name)
    if is_saved_dataset(path):
        saved = usual_splits(open_saved(path))
        return _divided(config, saved, name)
    if path.is_dir():
        files = split_files(path)
        return stream_file(files.pop("train")), {split: read_table(file) for split, file in files.items()}
    check_hub_id(name, path)
    found = usual_splits(open_hub(name, config.dataset_config_name, config.dataset_revision, streaming=True))
    return _divided(config, found, name)


def _divided(config: DataConfig, splits: dict[str, Any], name: str) -> tuple[RowStream, dict[str, Table]]:
    check_train(config, splits)
    streams = {split: _stream_of(dataset, f"{name}, split {split}") for split, dataset in splits.items()}
    return streams.pop("train"), {split: stream.whole() for split, stream in streams.items()}


def _stream_of(dataset: Any, origin: str) -> RowStream:
    """A split of `datasets`, in memory-mapped files or on the hub; images and sounds are not decoded."""
    from datasets import Dataset

    streamed = dataset.to_iterable_dataset() if isinstance(dataset, Dataset) else dataset
    if streamed.features is not None:
        streamed = streamed.decode(False)
    names = names_in_features(streamed.features)
    return RowStream(origin=origin, path=None, dataset=streamed, label_names=names)
