"""Paths, and what is said when nothing lies there."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.helpers import line_of, write

from spectune.data.locations import decode_text, existing_file, read_bytes, resolve_data_path
from spectune.errors import DataError


def test_data_paths_lie_under_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SPECTUNE_DATA", str(tmp_path))
    assert resolve_data_path("data/mr/train.jsonl") == tmp_path / "mr" / "train.jsonl"
    assert resolve_data_path("other/data/x.csv") == Path("other/data/x.csv")
    assert resolve_data_path("data") == Path("data")


def test_data_paths_are_plain_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECTUNE_DATA", raising=False)
    assert resolve_data_path("data/mr/train.jsonl") == Path("data/mr/train.jsonl")


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "reviews.csv", "text,label\n")
    with pytest.raises(DataError) as error:
        existing_file(tmp_path / "review.csv")
    assert "does not exist (did you mean 'reviews.csv'?)" in line_of(error)


def test_missing_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        existing_file(tmp_path / "nowhere" / "a.csv")
    assert f"the directory {tmp_path / 'nowhere'} does not exist" in line_of(error)


def test_missing_data_path_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECTUNE_DATA", raising=False)
    with pytest.raises(DataError, match="environment variable SPECTUNE_DATA"):
        existing_file("data/none/train.jsonl")


def test_directory_as_file_names_what_it_holds(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "x")
    with pytest.raises(DataError, match=r"is a directory, not a file; it holds train\.csv"):
        existing_file(tmp_path)
    write(tmp_path / "dataset_info.json", "{}")
    with pytest.raises(DataError, match=r"data\.dataset_name"):
        existing_file(tmp_path)


@pytest.mark.parametrize("name", ["a" * 5000, "nul\0byte.csv"])
def test_impossible_names_are_one_line(name: str) -> None:
    with pytest.raises(DataError) as error:
        existing_file(name)
    line_of(error)


def test_wrong_encoding_names_line_and_byte() -> None:
    with pytest.raises(DataError) as error:
        decode_text(b"\xef\xbb\xbftext\ncaf\xe9\n", "a.csv")
    assert line_of(error) == "a.csv: line 2 is not UTF-8 (byte 0xe9 at offset 11); save it as UTF-8"


def test_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty"):
        read_bytes(write(tmp_path / "a.csv", " \n"))
