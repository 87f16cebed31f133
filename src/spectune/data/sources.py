"""One door to every kind of data file, directory and data set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from spectune.config import DataConfig
from spectune.data.columnar import load_hub, load_saved, read_parquet
from spectune.data.delimited import read_csv, read_tsv
from spectune.data.json_files import read_json, read_json_lines
from spectune.data.locations import existing_file, missing, resolve_data_path
from spectune.data.table import Table
from spectune.data.wording import names_text
from spectune.errors import DataError

STARTER = "starter"
STARTER_LABELS = ("negative", "neutral", "positive")

READERS: Mapping[str, Callable[[Path], Table]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".json": read_json,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
}
_SPLIT_NAMES = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.\-]*(/[A-Za-z0-9][\w.\-]*)?")


def read_table(named: str | os.PathLike[str]) -> Table:
    """The rows of a file, its format taken from the extension. Raises DataError, one line, for whatever is wrong."""
    path = existing_file(named)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: the extension must be one of {', '.join(READERS)}")
    return reader(path)


def read_splits(config: DataConfig) -> dict[str, Table]:
    """The splits the run file names: `train`, and `validation` and `test` where given."""
    if STARTER in (config.train_file, config.dataset_name):
        tables = starter_splits()
    elif config.dataset_name is not None:
        tables = dataset_splits(config.dataset_name, config.dataset_config_name, config.dataset_revision)
    else:
        assert config.train_file is not None  # DataConfig wants one of the two
        tables = {"train": read_table(config.train_file)}
    given = {"validation": config.validation_file, "test": config.test_file}
    tables |= {split: read_table(file) for split, file in given.items() if file is not None}
    if "train" not in tables:
        raise DataError(f"{config.dataset_name} has no split 'train'; it has {names_text(list(tables))}")
    return tables


def dataset_splits(name: str, config_name: str | None = None, revision: str | None = None) -> dict[str, Table]:
    """The splits of a data set, under the names `train`, `validation` and `test`; others are left out.

    `name` is a directory written by `datasets`, a directory of files named after the splits (`train.csv`, …), or an
    id on the hub.
    """
    path = resolve_data_path(name)
    if path.is_dir():
        if any((path / marker).is_file() for marker in ("dataset_dict.json", "dataset_info.json", "state.json")):
            return _usual_splits(load_saved(path))
        return _split_files(path)
    if path.is_file():
        raise DataError(f"{path} is a file; name it in data.train_file, not in data.dataset_name")
    if not _HUB_ID.fullmatch(name) or path != Path(name):
        raise DataError(missing(path, name))
    return _usual_splits(load_hub(name, config_name, revision))


def starter_splits() -> dict[str, Table]:
    """The bundled data; its integer labels are named as a ClassLabel's would be."""
    from spectune.starter.bundle import data_files

    train, validation = data_files()
    names = {"label": STARTER_LABELS}
    return {
        "train": replace(read_table(train), label_names=names),
        "validation": replace(read_table(validation), label_names=names),
    }


def _usual_splits(tables: Mapping[str, Table]) -> dict[str, Table]:
    chosen = {}
    for split, names in _SPLIT_NAMES.items():
        found = next((name for name in names if name in tables), None)
        if found is not None:
            chosen[split] = tables[found]
    return chosen or dict(tables)


def _split_files(directory: Path) -> dict[str, Table]:
    files: dict[str, Path] = {}
    for split, names in _SPLIT_NAMES.items():
        candidates = [directory / (name + suffix) for name in names for suffix in READERS]
        found = next((path for path in candidates if path.is_file()), None)
        if found is not None:
            files[split] = found
    if "train" not in files:
        raise DataError(
            f"{directory} is neither a saved data set (`save_to_disk`) nor does it hold a train file"
            f" (train{', train'.join(READERS)})"
        )
    return {split: read_table(path) for split, path in files.items()}
