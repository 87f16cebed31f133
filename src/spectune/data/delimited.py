"""CSV and TSV files."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal, TypeVar

from spectune.data.locations import decode_text, read_bytes, text_lines
from spectune.data.table import Numbered, Table
from spectune.data.wording import names_text, separator_hint
from spectune.errors import DataError

_T = TypeVar("_T")
_LONGEST_FIELD = min(sys.maxsize, 2**31 - 1)
_LONGEST_STREAMED_FIELD = 2**24  # beyond, a quote is never closed and would bring the rest of the file into memory
_DECIDING_ROWS = 1000

_NumberedFields = tuple[int, dict[str, str]]


def read_csv(path: Path) -> Table:
    """A comma-separated file with a header. Raises DataError: encoding, quoting, ragged rows, header."""
    return _table(_parse(decode_text(read_bytes(path), path), path, ",", csv.QUOTE_MINIMAL), path)


def read_tsv(path: Path) -> Table:
    """A tab-separated file with a header.

    Both conventions are in use: fields quoted as in CSV, and quotes as plain characters. The second is taken when
    the file cannot be read by the first, or when it finds more rows and the same labels: a quote at the start of a
    text has swallowed the rows up to the next quote. (A quoted text that holds a tab and a line break could be read
    either way, too, but its pieces make a label of their own.) Raises DataError where nothing tells them apart.
    """
    text = decode_text(read_bytes(path), path)
    quoted = _attempt(lambda: _parse(text, path, "\t", csv.QUOTE_MINIMAL))
    plain = _attempt(lambda: _parse(text, path, "\t", csv.QUOTE_NONE)) if '"' in text else quoted
    if isinstance(quoted, DataError):
        if isinstance(plain, DataError):
            raise quoted
        return _table(plain, path)
    return _table(plain if isinstance(plain, list) and _swallows(quoted, plain, path) else quoted, path)


def stream_csv(path: Path) -> Iterator[Numbered]:
    """The rows of `read_csv` one by one, with the line that each starts on. Raises DataError when it is reached."""
    return _stream(path, ",", csv.QUOTE_MINIMAL)


def stream_tsv(path: Path) -> Iterator[Numbered]:
    """The rows of `read_tsv` one by one; the first 1,000 rows decide which of the two conventions it is."""
    quoted, plain = (_attempt(partial(_leading, path, quoting)) for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONE))
    if isinstance(quoted, DataError):
        if isinstance(plain, DataError):
            raise quoted
        return _stream(path, "\t", csv.QUOTE_NONE)
    if isinstance(plain, list):
        last = min(quoted[-1][0], plain[-1][0])
        same_lines = [[one for one in found if one[0] <= last] for found in (quoted, plain)]
        if _swallows(same_lines[0], same_lines[1], path):
            return _stream(path, "\t", csv.QUOTE_NONE)
    return _stream(path, "\t", csv.QUOTE_MINIMAL)


def _swallows(quoted: Sequence[_NumberedFields], plain: Sequence[_NumberedFields], path: Path) -> bool:
    """Whether quotes that were meant as plain characters have made one row of several. Raises DataError: no telling."""
    if len(quoted) >= len(plain):
        return False
    names = list(quoted[0][1])
    if any(_values(quoted, name) == _values(plain, name) for name in names):
        return True
    if any(2 * len(_values(quoted, name)) <= len(quoted) for name in names):  # labels, which only this reading keeps
        return False
    line = next((line for line, row in quoted if any("\n" in text and "\t" in text for text in row.values())), 2)
    raise DataError(
        f"{path}: a quote on line {line} may begin a quoted text of several lines or be a plain character, and both "
        f"readings fit ({len(quoted)} rows or {len(plain)}); remove that quote, or save the table as .csv or .jsonl"
    )


def _values(rows: Sequence[_NumberedFields], name: str) -> set[str]:
    return {row[name] for _, row in rows}


def _leading(path: Path, quoting: Literal[0, 3]) -> list[_NumberedFields]:
    return list(islice(_stream(path, "\t", quoting), _DECIDING_ROWS))


def _attempt(read: Callable[[], _T]) -> _T | DataError:
    """What is read, or why it cannot be."""
    try:
        return read()
    except DataError as error:
        return error


def _stream(path: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[_NumberedFields]:
    rows = _rows(text_lines(path, ""), path, delimiter, quoting)
    while True:
        # Set for each row, not for as long as this generator lives: the limit is the whole process's.
        with _field_limit(_LONGEST_STREAMED_FIELD):
            numbered = next(rows, None)
        if numbered is None:
            return
        yield numbered


def _parse(text: str, path: Path, delimiter: str, quoting: Literal[0, 3]) -> list[_NumberedFields]:
    with _field_limit(_LONGEST_FIELD):
        return list(_rows(io.StringIO(text, newline=""), path, delimiter, quoting))


def _table(numbered: Sequence[_NumberedFields], path: Path) -> Table:
    rows, lines = [row for _, row in numbered], [line for line, _ in numbered]
    return Table(origin=str(path), columns=tuple(rows[0]), rows=rows, lines=lines)


def _rows(text: Iterable[str], path: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[_NumberedFields]:
    """The rows below the header, which is checked first; `text` gives lines with their ends."""
    records = _records(text, path, delimiter, quoting)
    header = next(([name.strip() for name in fields] for _, fields in records if not _is_blank(fields)), [])
    # Spreadsheets and pandas leave unnamed columns behind; nobody can mean one of them.
    names = [name for name in header if name]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{path}: the header has the column {twice[0]!r} more than once")
    if not names:
        raise DataError(f"{path}: the first line must name the columns")
    empty = True
    for line, fields in records:
        if _is_blank(fields) and len(header) > 1:  # of a single column it is an empty cell, which is reported
            continue
        empty = False
        if len(fields) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(fields)} fields, the header {len(header)} ({names_text(header)})"
                f"{separator_hint(header) or '; a text that contains the separator or a line break must be quoted'}"
            )
        yield line, {name: value for name, value in zip(header, fields, strict=True) if name}
    if empty:
        raise DataError(f"{path} has a header but no rows")


def _is_blank(fields: Sequence[str]) -> bool:
    """A line of white space alone."""
    return len(fields) == 1 and not fields[0].strip()


def _records(
    text: Iterable[str], path: Path, delimiter: str, quoting: Literal[0, 3]
) -> Iterator[tuple[int, list[str]]]:
    """Each record that is no blank line, with the line on which it starts."""
    reader = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
    start = 1
    try:
        for fields in reader:
            if fields:
                yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: the quotes in the record that starts on line {start} do not match ({error})"
        ) from None


@contextmanager
def _field_limit(characters: int) -> Iterator[None]:
    """The csv module refuses fields over 131,072 characters; documents may be longer."""
    before = csv.field_size_limit(characters)
    try:
        yield
    finally:
        csv.field_size_limit(before)
