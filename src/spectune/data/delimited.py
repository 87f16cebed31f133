"""CSV and TSV files."""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from spectune.data.locations import decode_text, read_bytes
from spectune.data.table import Table
from spectune.data.wording import names_text
from spectune.errors import DataError


def read_csv(path: Path) -> Table:
    """A comma-separated file with a header. Raises DataError: encoding, quoting, ragged rows, header."""
    return _parse(decode_text(read_bytes(path), path), path, ",", csv.QUOTE_MINIMAL)


def read_tsv(path: Path) -> Table:
    """A tab-separated file with a header.

    Both conventions are in use: fields quoted as in CSV, and quotes as plain characters. The second is taken when
    the file cannot be read by the first.
    """
    text = decode_text(read_bytes(path), path)
    try:
        return _parse(text, path, "\t", csv.QUOTE_MINIMAL)
    except DataError as error:
        try:
            return _parse(text, path, "\t", csv.QUOTE_NONE)
        except DataError:
            raise error from None


def _parse(text: str, path: Path, delimiter: str, quoting: Literal[0, 3]) -> Table:
    records = _records(text, path, delimiter, quoting)
    header = [name.strip() for name in next(records, (0, []))[1]]
    # Spreadsheets and pandas leave unnamed columns behind; nobody can mean one of them.
    names = [name for name in header if name]
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DataError(f"{path}: the header has the column {twice[0]!r} more than once")
    if not names:
        raise DataError(f"{path}: the first line must name the columns")
    rows, lines = [], []
    for line, fields in records:
        if len(fields) != len(header):
            raise DataError(
                f"{path}: line {line} has {len(fields)} fields, the header {len(header)} ({names_text(header)});"
                f" a text that contains the separator or a line break must be quoted"
            )
        rows.append({name: value for name, value in zip(header, fields, strict=True) if name})
        lines.append(line)
    if not rows:
        raise DataError(f"{path} has a header but no rows")
    return Table(origin=str(path), columns=tuple(names), rows=rows, lines=lines)


def _records(text: str, path: Path, delimiter: str, quoting: Literal[0, 3]) -> Iterator[tuple[int, list[str]]]:
    """Each record that is not blank, with the line on which it starts."""
    with _long_fields_allowed():
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
        start = 1
        try:
            for fields in reader:
                if fields and (len(fields) > 1 or fields[0].strip()):
                    yield start, fields
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}: the quotes in the record that starts on line {start} do not match ({error})"
            ) from None


@contextmanager
def _long_fields_allowed() -> Iterator[None]:
    """The csv module refuses fields over 131,072 characters; documents may be longer."""
    before = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        yield
    finally:
        csv.field_size_limit(before)
