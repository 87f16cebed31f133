"""A table of rows as it was read, whatever the format was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Numbered = tuple[int | None, Mapping[str, Any]]
"""A row, and the line of the file on which it starts, where it has lines."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows with named columns. A dotted name reaches into nested columns (`translation.en`)."""

    origin: str
    """How messages name it: the path, or data set and split."""
    columns: tuple[str, ...]
    rows: Sequence[Mapping[str, Any]]
    numbers: Sequence[int] | None = None
    """Number of each row where they are not 1, 2, 3, …: a part of a larger table."""
    lines: Sequence[int] | None = None
    """Line of the file on which each row starts (CSV, TSV, JSON lines, text)."""
    label_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the integer labels, for columns that `datasets` knows as ClassLabel."""

    def has(self, column: str) -> bool:
        """Whether the column is there."""
        return column in self.columns or column in self.nested_columns()

    def nested_columns(self) -> tuple[str, ...]:
        """Dotted names of what lies in columns of mappings, as far as the first row shows."""
        first = self.rows[0] if self.rows else {}
        nested = ((name, first.get(name)) for name in self.columns)
        return tuple(f"{name}.{key}" for name, value in nested if isinstance(value, Mapping) for key in value)

    def value(self, index: int, column: str) -> Any:
        """The raw value in row `index` (from 0); None where the row lacks it."""
        row = self.rows[index]
        if column in row or "." not in column:
            return row.get(column)
        name, _, key = column.partition(".")
        nested = row.get(name)
        return nested.get(key) if isinstance(nested, Mapping) else None

    def number(self, index: int) -> int:
        """The number by which people know the row at `index` (from 0): from 1, a header does not count."""
        return index + 1 if self.numbers is None else self.numbers[index]

    def place(self, row: int) -> str:
        """`row 4`, or `row 4 (line 5)` where the file has lines; `row` is a row's number."""
        if self.lines is None:
            return f"row {row}"
        index = row - 1 if self.numbers is None else self.numbers.index(row)
        return f"row {row} (line {self.lines[index]})"
