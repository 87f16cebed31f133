"""Parquet, saved data sets and the hub."""

from __future__ import annotations

from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from tests.data.helpers import line_of, write

from spectune.data.columnar import load_hub, load_saved, read_parquet
from spectune.errors import DataError

FEATURES = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
SMALL = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [0, 1, -1]}, features=FEATURES)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", None], "n": [1, 2]}), path)
    table = read_parquet(path)
    assert table.columns == ("text", "n")
    assert table.rows == [{"text": "a", "n": 1}, {"text": None, "n": 2}]


def test_parquet_of_datasets_keeps_label_names_and_withheld_labels(tmp_path: Path) -> None:
    SMALL.to_parquet(str(tmp_path / "a.parquet"))
    table = read_parquet(tmp_path / "a.parquet")
    assert table.label_names == {"label": ("no", "yes")}
    assert [row["label"] for row in table.rows] == [0, 1, None]


def test_saved_directories(tmp_path: Path) -> None:
    SMALL.select([1]).save_to_disk(tmp_path / "one")
    alone = load_saved(tmp_path / "one")
    assert alone["train"].rows == [{"text": "b", "label": 1}]
    assert alone["train"].label_names == {"label": ("no", "yes")}
    datasets.DatasetDict({"train": SMALL, "dev": SMALL}).save_to_disk(tmp_path / "two")
    assert set(load_saved(tmp_path / "two")) == {"train", "dev"}


@pytest.mark.parametrize("content", [b"no parquet", b"PAR1"])
def test_damaged_parquet(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError) as error:
        read_parquet(write(tmp_path / "a.parquet", content))
    assert "cannot be read as Parquet" in line_of(error)


def test_damaged_directory(tmp_path: Path) -> None:
    SMALL.save_to_disk(tmp_path / "one")
    write(tmp_path / "one" / "state.json", "{")
    with pytest.raises(DataError) as error:
        load_saved(tmp_path / "one")
    assert "cannot be read as a saved data set" in line_of(error)


class GatedRepoError(Exception):
    """As huggingface_hub names it."""


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (ConnectionError("Couldn't reach\nthe Hub"), "the hub cannot be reached"),
        (datasets.exceptions.DatasetNotFoundError("Dataset 'x' doesn't exist"), "or it is private (then set HF_TOKEN)"),
        (GatedRepoError("403"), "access to it must be granted"),
        (ValueError("Config name is missing.\nPlease pick one among ['a', 'b']"), "pick one among ['a', 'b']"),
    ],
)
def test_hub_troubles_are_one_line(monkeypatch: pytest.MonkeyPatch, raised: Exception, message: str) -> None:
    def load_dataset(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError) as error:
        load_hub("someone/data", None, None)
    assert message in line_of(error)
    assert "'someone/data'" in line_of(error)
