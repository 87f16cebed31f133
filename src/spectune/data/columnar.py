"""Parquet files, and what the `datasets` library gives: saved directories and the hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectune.data.table import Numbered, Table
from spectune.errors import DataError

if TYPE_CHECKING:
    import pyarrow

_BATCH = 1000


def read_parquet(path: Path) -> Table:
    """A Parquet file. Raises DataError when it is not one or has no rows."""
    with _parquet(path) as file:
        table = file.read()
        table.validate(full=True)  # texts that are no UTF-8, offsets out of range
    return _from_arrow(table, str(path), _label_names_in_schema(table.schema))


def stream_parquet(path: Path) -> Iterator[Numbered]:
    """The rows of `read_parquet` one by one. Raises DataError when the damaged part is reached."""
    with _parquet(path) as file:
        label_names = _label_names_in_schema(file.schema_arrow)
        if file.metadata.num_rows == 0:
            raise DataError(f"{path} holds no rows")
        for batch in file.iter_batches(batch_size=_BATCH):
            batch.validate(full=True)
            yield from ((None, without_withheld(row, label_names)) for row in batch.to_pylist())


def parquet_label_names(path: Path) -> dict[str, tuple[str, ...]]:
    """The ClassLabel names that `datasets` leaves in a Parquet file it writes. Raises DataError when it is none."""
    with _parquet(path) as file:
        return _label_names_in_schema(file.schema_arrow)


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """The open file. Raises DataError for what goes wrong while the block runs."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path, page_checksum_verification=True) as file:
            _check_columns(file.schema_arrow.names, str(path))  # reading would stumble over a name that occurs twice
            yield file
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {_first_line(error)}") from None


def load_saved(directory: Path) -> dict[str, Table]:
    """The splits of a directory written by `datasets` (`save_to_disk`); a lone Dataset is the split `train`."""
    return {split: _table_of(split, dataset, str(directory)) for split, dataset in open_saved(directory).items()}


def load_hub(name: str, config_name: str | None, revision: str | None) -> dict[str, Table]:
    """The splits of a data set on the hub. Raises DataError: missing, private, no such configuration, no network."""
    opened = open_hub(name, config_name, revision, streaming=False)
    return {split: _table_of(split, dataset, name) for split, dataset in opened.items()}


def open_saved(directory: Path) -> dict[str, Any]:
    """Split → `datasets.Dataset`, whose rows stay on the disk until they are read. Raises DataError as `load_saved`."""
    import datasets

    try:
        return _splits(datasets.load_from_disk(str(directory)))
    except Exception as error:  # datasets raises what its many parts raise; all of it means a damaged directory
        raise DataError(f"{directory} cannot be read as a saved data set: {_first_line(error)}") from None


def open_hub(name: str, config_name: str | None, revision: str | None, *, streaming: bool) -> dict[str, Any]:
    """Split → `datasets.Dataset`, or `IterableDataset` when streaming. Raises DataError as `load_hub`."""
    import datasets

    try:
        return _splits(datasets.load_dataset(name, config_name, revision=revision, streaming=streaming))
    except Exception as error:  # the same zoo, and the network's on top
        raise DataError(f"data set {name!r} cannot be loaded: {hub_reason(error)}") from None


def _splits(loaded: Any) -> dict[str, Any]:
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _table_of(split: str, dataset: Any, origin: str) -> Table:
    # As arrow: no decoding of features, and the rows selected by an index mapping are honoured.
    table = dataset.with_format("arrow")[:]
    return _from_arrow(table, f"{origin}, split {split}", names_in_features(dataset.features))


def names_in_features(features: Any) -> dict[str, tuple[str, ...]]:
    """Names of the integer labels in `datasets` features, which a stream may not know (None)."""
    return {column: tuple(feature.names) for column, feature in (features or {}).items() if hasattr(feature, "names")}


def without_withheld(row: dict[str, Any], label_names: Mapping[str, object]) -> dict[str, Any]:
    """The row with None for -1, which `datasets` writes where a label is withheld."""
    for column in label_names:
        if row[column] == -1:
            row[column] = None
    return row


def _check_columns(names: list[str], origin: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{origin} has the column {twice[0]!r} more than once")


def _from_arrow(table: pyarrow.Table, origin: str, label_names: dict[str, tuple[str, ...]]) -> Table:
    _check_columns(table.column_names, origin)
    if table.num_rows == 0:
        raise DataError(f"{origin} holds no rows")
    rows = [without_withheld(row, label_names) for row in table.to_pylist()]
    return Table(origin=origin, columns=tuple(table.column_names), rows=rows, label_names=label_names)


def _label_names_in_schema(schema: pyarrow.Schema) -> dict[str, tuple[str, ...]]:
    """The ClassLabel names that `datasets` leaves in a Parquet file it writes."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: tuple(str(name) for name in feature["names"])
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}  # written by something else


def hub_reason(error: Exception) -> str:
    """Why the hub gave nothing, in half a line."""
    kind = type(error).__name__
    if "Offline" in kind or "Connection" in kind or "Timeout" in kind:
        return "the hub cannot be reached (no network, or HF_HUB_OFFLINE is set); use local files or a saved directory"
    if "Gated" in kind or "gated" in str(error):
        return "access to it must be granted on the hub; then log in with `hf auth login` or set HF_TOKEN"
    if "NotFound" in kind:
        return "there is no such directory here, nor such a data set on the hub, or it is private (then set HF_TOKEN)"
    return _first_line(error)


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
