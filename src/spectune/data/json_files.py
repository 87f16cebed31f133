"""JSON files: a list of objects, `{"data": [...]}`, or one object a line."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spectune.data.locations import decode_text, read_bytes, text_lines
from spectune.data.table import Numbered, Table
from spectune.data.wording import excerpt
from spectune.errors import DataError


def read_json(path: Path) -> Table:
    """A JSON file of rows; JSON lines under the name `.json` are accepted, as many tools write them."""
    text = decode_text(read_bytes(path), path)
    try:
        content = parse_json(text, path)
    except DataError:
        if _first_line_is_object(text):
            return _lines_table(text, path)
        raise
    if isinstance(content, Mapping) and isinstance(content.get("data"), list):
        content = content["data"]
    if isinstance(content, Mapping) and _first_line_is_object(text):
        return _lines_table(text, path)  # a single row
    if not isinstance(content, list):
        raise DataError(f'{path} must hold a list of objects, or {{"data": [...]}}, or one object a line')
    for row, entry in enumerate(content, start=1):
        if not isinstance(entry, Mapping):
            raise DataError(f"{path}: row {row} is {excerpt(json.dumps(entry))}, not an object with named columns")
    return _table(content, path, None)


def read_json_lines(path: Path) -> Table:
    """One JSON object a line; blank lines are skipped."""
    return _lines_table(decode_text(read_bytes(path), path), path)


def stream_json_lines(path: Path) -> Iterator[Numbered]:
    """The rows of `read_json_lines` one by one. Raises DataError when a mistake is reached."""
    empty = True
    for numbered in _numbered((line.removesuffix("\n") for line in text_lines(path, "\n")), path):
        empty = False
        yield numbered
    if empty:
        raise DataError(f"{path} holds no rows")


def stream_json(path: Path) -> Iterator[Numbered]:
    """JSON lines under the name `.json`. Raises DataError for one large JSON text, which cannot be read in parts."""
    first = next((line for line in text_lines(path, "\n") if line.strip()), "")
    if not _first_line_is_object(first):
        raise DataError(f"{path} is one JSON text, which data.streaming cannot read in parts; save one object a line")
    return stream_json_lines(path)


def parse_json(text: str, path: Path) -> Any:
    """Any JSON text. Raises DataError with the line and column of a mistake."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}, column {error.colno} is not JSON: {error.msg}") from None
    except _TwiceError as error:
        raise DataError(f"{path} {error}") from None
    except (RecursionError, ValueError):  # nested too deeply, a number of thousands of digits
        raise DataError(f"{path} holds JSON that cannot be read: nested too deeply, or an enormous number") from None


class _TwiceError(Exception):
    """An object with one key twice, of which JSON readers keep the last in silence."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
        raise _TwiceError(f"has the key {twice!r} twice in one object")
    return found


def _lines_table(text: str, path: Path) -> Table:
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    numbered = list(_numbered(text.split("\n"), path))
    return _table([row for _, row in numbered], path, [line for line, _ in numbered])


def _numbered(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The row of each line that is not blank."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _parse_line(line, path, number)


def _parse_line(line: str, path: Path, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {number}, column {error.colno} is not JSON: {error.msg}") from None
    except _TwiceError as error:
        raise DataError(f"{path}: line {number} {error}") from None
    except (RecursionError, ValueError):
        raise DataError(f"{path}: line {number} cannot be read: nested too deeply, or an enormous number") from None
    if not isinstance(row, Mapping):
        raise DataError(f"{path}: line {number} is {excerpt(line)}, not an object with named columns")
    return row


def _table(rows: list[Mapping[str, Any]], path: Path, lines: list[int] | None) -> Table:
    if not rows:
        raise DataError(f"{path} holds no rows")
    return Table(origin=str(path), columns=_columns(rows), rows=rows, lines=lines)


def _columns(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """All names, in order of first appearance: a row may lack a column that others have."""
    return tuple(dict.fromkeys(name for row in rows for name in row))


def _first_line_is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text.lstrip().split("\n", 1)[0]), Mapping)
    except (ValueError, RecursionError):
        return False
