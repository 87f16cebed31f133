"""Every kind of source through one door."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from tests.data.helpers import line_of, write

from spectune.config import DataConfig
from spectune.data.sources import dataset_splits, read_splits, read_table
from spectune.errors import DataError

CSV = "text,label\na,0\n"


def test_unknown_extension_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"one of \.csv, \.tsv, \.json, \.jsonl, \.ndjson, \.parquet"):
        read_table(write(tmp_path / "a.xlsx", "x"))


def test_extension_in_capitals(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "A.CSV", CSV)).columns == ("text", "label")


def test_files_of_all_splits(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.csv", CSV)
    config = DataConfig(
        train_file=str(tmp_path / "a.csv"), validation_file=str(tmp_path / "b.csv"), test_file=str(tmp_path / "c.csv")
    )
    assert list(read_splits(config)) == ["train", "validation", "test"]


def test_directory_of_split_files(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", CSV)
    write(tmp_path / "dev.jsonl", '{"text": "a", "label": 0}')
    assert list(dataset_splits(str(tmp_path))) == ["train", "validation"]


def test_saved_data_set_with_unusual_split_names(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": ["a"]})
    datasets.DatasetDict({"train": rows, "valid": rows, "extra": rows}).save_to_disk(tmp_path / "saved")
    assert list(dataset_splits(str(tmp_path / "saved"))) == ["train", "validation"]
    datasets.DatasetDict({"corpus": rows}).save_to_disk(tmp_path / "odd")
    with pytest.raises(DataError, match="has no split 'train'; it has corpus"):
        read_splits(DataConfig(dataset_name=str(tmp_path / "odd")))


def test_wrong_places_for_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nor does it hold a train file"):
        dataset_splits(str(tmp_path))
    with pytest.raises(DataError, match=r"is a file; name it in data\.train_file"):
        dataset_splits(str(write(tmp_path / "a.csv", CSV)))
    (tmp_path / "saved").mkdir()
    with pytest.raises(DataError) as error:
        dataset_splits(str(tmp_path / "saved_"))
    assert "does not exist (did you mean 'saved'?)" in line_of(error)
