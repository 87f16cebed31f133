"""What the columns of a table look like, from its first rows."""

from __future__ import annotations

from collections.abc import Mapping

from spectune.data.table import Table

_LOOKED_AT = 50


def is_text_like(table: Table, column: str) -> bool:
    """Whether the first rows hold texts, numbers or truth values, not lists or mappings."""
    first = [table.value(index, column) for index in range(min(_LOOKED_AT, len(table.rows)))]
    present = [value for value in first if value is not None]
    return bool(present) and all(isinstance(value, str | int | float) for value in present)


def has_texts(table: Table, column: str) -> bool:
    """Whether the first rows hold texts that are no whole numbers: those are no source."""
    first = (table.value(index, column) for index in range(min(_LOOKED_AT, len(table.rows))))
    return any(isinstance(value, str) and not value.strip().lstrip("+-").isdigit() for value in first)


def list_in(table: Table, column: str) -> str:
    """The column, or what in its mappings is called text."""
    first = table.value(0, column)
    return f"{column}.text" if isinstance(first, Mapping) and "text" in first else column
