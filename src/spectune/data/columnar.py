"""Parquet files, and what the `datasets` library gives: saved directories and the hub."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectune.data.table import Table
from spectune.errors import DataError

if TYPE_CHECKING:
    import pyarrow


def read_parquet(path: Path) -> Table:
    """A Parquet file. Raises DataError when it is not one or has no rows."""
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True)
        _check_columns(file.schema_arrow.names, str(path))  # read would stumble over a name that occurs twice
        table = file.read()
        table.validate(full=True)  # texts that are no UTF-8, offsets out of range
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {_first_line(error)}") from None
    return _from_arrow(table, str(path), _label_names_in_schema(table.schema))


def load_saved(directory: Path) -> dict[str, Table]:
    """The splits of a directory written by `datasets` (`save_to_disk`); a lone Dataset is the split `train`."""
    import datasets

    try:
        loaded = datasets.load_from_disk(str(directory))
    except Exception as error:  # datasets raises what its many parts raise; all of it means a damaged directory
        raise DataError(f"{directory} cannot be read as a saved data set: {_first_line(error)}") from None
    return _from_datasets(loaded, str(directory))


def load_hub(name: str, config_name: str | None, revision: str | None) -> dict[str, Table]:
    """The splits of a data set on the hub. Raises DataError: missing, private, no such configuration, no network."""
    import datasets

    try:
        loaded = datasets.load_dataset(name, config_name, revision=revision)
    except Exception as error:  # the same zoo, and the network's on top
        raise DataError(f"data set {name!r} cannot be loaded: {_hub_reason(error)}") from None
    return _from_datasets(loaded, name)


def _from_datasets(loaded: Any, origin: str) -> dict[str, Table]:
    splits = dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    tables = {}
    for split, dataset in splits.items():
        names = {
            column: tuple(feature.names) for column, feature in dataset.features.items() if hasattr(feature, "names")
        }
        # As arrow: no decoding of features, and the rows selected by an index mapping are honoured.
        tables[split] = _from_arrow(dataset.with_format("arrow")[:], f"{origin}, split {split}", names)
    return tables


def _check_columns(names: list[str], origin: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{origin} has the column {twice[0]!r} more than once")


def _from_arrow(table: pyarrow.Table, origin: str, label_names: dict[str, tuple[str, ...]]) -> Table:
    _check_columns(table.column_names, origin)
    if table.num_rows == 0:
        raise DataError(f"{origin} holds no rows")
    rows = table.to_pylist()
    for column in label_names:
        for row in rows:
            if row[column] == -1:  # what `datasets` writes where the label is withheld
                row[column] = None
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


def _hub_reason(error: Exception) -> str:
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
