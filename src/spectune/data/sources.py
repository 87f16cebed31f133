"""One door to every kind of data file, directory and data set."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from spectune.config import DataConfig
from spectune.data.columnar import load_hub, load_saved, read_parquet
from spectune.data.delimited import read_csv, read_tsv
from spectune.data.json_files import read_json, read_json_lines
from spectune.data.locations import existing_file, missing, resolve_data_path
from spectune.data.table import Table
from spectune.data.wording import names_text
from spectune.errors import DataError

T = TypeVar("T")
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
    check_train(config, tables)
    return tables


def check_train(config: DataConfig, splits: Mapping[str, object]) -> None:
    """Raises DataError when a data set has no training split."""
    if "train" not in splits:
        raise DataError(f"{config.dataset_name} has no split 'train'; it has {names_text(list(splits))}")


def dataset_splits(name: str, config_name: str | None = None, revision: str | None = None) -> dict[str, Table]:
    """The splits of a data set, under the names `train`, `validation` and `test`; others are left out.

    `name` is a directory written by `datasets`, a directory of files named after the splits (`train.csv`, …), or an
    id on the hub.
    """
    path = resolve_data_path(name)
    if is_saved_dataset(path):
        return usual_splits(load_saved(path))
    if path.is_dir():
        return {split: read_table(file) for split, file in split_files(path).items()}
    check_hub_id(name, path)
    return usual_splits(load_hub(name, config_name, revision))


def is_saved_dataset(path: Path) -> bool:
    """Whether a directory was written by `datasets` (`save_to_disk`)."""
    return any((path / marker).is_file() for marker in ("dataset_dict.json", "dataset_info.json", "state.json"))


def check_hub_id(name: str, path: Path) -> None:
    """Raises DataError for what is no directory here and cannot be an id on the hub."""
    if path.is_file():
        raise DataError(f"{path} is a file; name it in data.train_file, not in data.dataset_name")
    if not _HUB_ID.fullmatch(name) or path != Path(name):
        raise DataError(missing(path, name))


def starter_splits() -> dict[str, Table]:
    """The bundled data; its integer labels are named as a ClassLabel's would be."""
    from spectune.starter.bundle import data_files

    train, validation = data_files()
    names = {"label": STARTER_LABELS}
    return {
        "train": replace(read_table(train), label_names=names),
        "validation": replace(read_table(validation), label_names=names),
    }


def usual_splits(tables: Mapping[str, T]) -> dict[str, T]:
    """What lies under the usual names of the three splits; all of it where none of these names occurs."""
    chosen = {}
    for split, names in _SPLIT_NAMES.items():
        found = next((name for name in names if name in tables), None)
        if found is not None:
            chosen[split] = tables[found]
    return chosen or dict(tables)


def split_files(directory: Path) -> dict[str, Path]:
    """The files of a directory that are named after splits. Raises DataError when there is no train file."""
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
    return files
