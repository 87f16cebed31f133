"""JSON and JSON lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.helpers import line_of, write

from spectune.data.json_files import read_json, read_json_lines
from spectune.errors import DataError


@pytest.mark.parametrize(
    "content",
    [
        '[{"a": 1}, {"a": 2, "b": 3}]',
        '{"version": 1, "data": [{"a": 1}, {"a": 2, "b": 3}]}',
        '{"a": 1}\n{"a": 2, "b": 3}\n',
    ],
)
def test_three_shapes_of_json(tmp_path: Path, content: str) -> None:
    table = read_json(write(tmp_path / "a.json", content))
    assert table.columns == ("a", "b")
    assert [table.value(index, "b") for index in range(2)] == [None, 3]


def test_lines_keep_their_numbers_and_unusual_separators(tmp_path: Path) -> None:
    table = read_json_lines(write(tmp_path / "a.jsonl", '{"a": "x\u2028y"}\r\n\n{"a": 2}'))
    assert table.value(0, "a") == "x\u2028y"
    assert table.place(2) == "row 2 (line 3)"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}\n{"a": }\n', "line 2, column 7 is not JSON"),
        ('{"a": 1}\n[1]\n', "line 2 is '[1]', not an object"),
        ('{"a": 1}\n' + "[" * 100_000, "line 2 cannot be read"),
        ('{"a": ' + "9" * 5000 + "}", "line 1 cannot be read"),
    ],
)
def test_mistakes_in_lines(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_json_lines(write(tmp_path / "a.jsonl", content))
    assert message in line_of(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"a": 1},\n {"a" 2}]', "line 2, column 7 is not JSON"),
        ('[{"a": 1}, 5]', "row 2 is '5', not an object"),
        ("[]", "holds no rows"),
        ('"text"', "must hold a list of objects"),
        ('{\n"a": 1\n}', "must hold a list of objects"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_mistakes_in_json(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_json(write(tmp_path / "a.json", content))
    assert message in line_of(error)
