"""Rows as text pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from spectune.data.columns import Columns
from spectune.data.table import Table
from spectune.data.verbalizer import Verbalizer
from spectune.data.wording import count, rows_text, some
from spectune.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row as the model sees it."""

    row: int
    """Data row, from 1; a header does not count."""
    source: str
    """Prefix and template applied."""
    target: str
    """The label's words in classification; empty when no targets were asked for."""
    label: str | None
    """The label as its map spells it; classification only."""
    references: tuple[str, ...]
    """All right outputs, the target first; empty when no targets were asked for."""


@dataclass(slots=True)
class Built:
    """The examples of one table, and the rows that gave none."""

    examples: list[Example] = field(default_factory=list)
    dropped: dict[str, list[int]] = field(default_factory=dict)
    """Reason → row numbers."""


class _UnusableRowError(Exception):
    """Why a row gives no example; only `build_rows` sees it."""


def build_examples(
    table: Table,
    columns: Columns,
    *,
    prefix: str,
    verbalizer: Verbalizer | None,
    invalid_rows: Literal["drop", "error"],
) -> Built:
    """Text pairs of a table; rows with an empty or missing text are left out, or refused.

    Raises:
        DataError: unusable rows under `invalid_rows: error`, no usable row at all, labels outside the verbalizer's
            map, or a cell that is no text.
    """
    built = build_rows(table, columns, prefix=prefix, verbalizer=verbalizer)
    if built.dropped and not built.examples:
        raise DataError(f"{table.origin} has no usable row; {dropped_text(built.dropped)}")
    if built.dropped and invalid_rows == "error":
        refuse_dropped(table, built.dropped)
    return built


def build_rows(table: Table, columns: Columns, *, prefix: str, verbalizer: Verbalizer | None) -> Built:
    """Text pairs of a table, or of a part of one; the rows with an empty or missing text are counted.

    Raises:
        DataError: labels outside the verbalizer's map, or a cell that is no text.
    """
    built = Built()
    unknown: dict[str, list[int]] = {}
    references = columns.references if table.has(columns.references) else None
    for index in range(len(table.rows)):
        row = table.number(index)
        try:
            source = prefix + columns.template.render(tuple(_text(table, index, name) for name in columns.text))
            if columns.target is None:
                built.examples.append(Example(row=row, source=source, target="", label=None, references=()))
            elif verbalizer is not None:
                label = _label(table, index, columns.target, verbalizer, unknown)
                target = verbalizer.to_text(label) if label is not None else ""
                built.examples.append(Example(row=row, source=source, target=target, label=label, references=(target,)))
            else:
                target, right = _outputs(table, index, columns.target, references)
                built.examples.append(Example(row=row, source=source, target=target, label=None, references=right))
        except _UnusableRowError as reason:
            built.dropped.setdefault(str(reason), []).append(row)
    if unknown:
        raise DataError(_unknown_labels(table, unknown, verbalizer))
    return built


def text_of(value: Any) -> str | None:
    """A cell as text; None when it is missing or holds only white space. Raises TypeError for lists and mappings."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if isinstance(value, Mapping | Sequence) and not isinstance(value, str):
        raise TypeError(type(value).__name__)
    text = value if isinstance(value, str) else str(value)
    return text if text.strip() else None


def _text(table: Table, index: int, column: str, *, labelled: bool = False) -> str:
    try:
        text = text_of(table.value(index, column))
    except TypeError as error:
        raise DataError(
            f"{table.origin}: {table.place(table.number(index))} holds a {error} in column {column!r}, not a text"
            f"{_structure_hint(table, index, column, labelled=labelled)}"
        ) from None
    if text is None:
        raise _UnusableRowError(f"empty column {column!r}")
    if not is_unicode(text):
        raise _UnusableRowError(f"column {column!r} is not valid Unicode")
    return text


def is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can spell and no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _structure_hint(table: Table, index: int, column: str, *, labelled: bool) -> str:
    value = table.value(index, column)
    if isinstance(value, Mapping):
        return f"; write {' or '.join(f'{column}.{key}' for key in list(value)[:3])} for what is in it"
    if isinstance(value, bytes | bytearray):
        return "; save the column as text"
    if labelled:
        return "; a row has one label: join several into one text, and set data.task: text2text"
    return f"; several right outputs are data.references_column: {column}, of which the first is learnt"


def _label(table: Table, index: int, column: str, verbalizer: Verbalizer, unknown: dict[str, list[int]]) -> str | None:
    raw = _text(table, index, column, labelled=True)
    # Not from the text alone: 1.0 and True have better ways to become labels.
    label = verbalizer.label_of(table.value(index, column))
    if label is None:
        unknown.setdefault(raw, []).append(table.number(index))
    return label


def _outputs(table: Table, index: int, column: str, references: str | None) -> tuple[str, tuple[str, ...]]:
    """The target and all right outputs of a row."""
    raw = table.value(index, references) if references is not None else None
    listed = [raw] if isinstance(raw, str) else raw or []
    if not isinstance(listed, Sequence) or not all(item is None or isinstance(item, str) for item in listed):
        raise DataError(
            f"{table.origin}: {table.place(table.number(index))}: column {references!r} must hold a list of texts"
            f" (data.references_column{_inside(raw, str(references))})"
        )
    right = [item for item in listed if item and item.strip() and is_unicode(item)]
    if column == references:
        if not right:
            raise _UnusableRowError(f"empty column {column!r}")
        return right[0], tuple(dict.fromkeys(right))
    target = right[0] if right and _is_missing(table.value(index, column)) else _text(table, index, column)
    return target, tuple(dict.fromkeys([target, *right]))


def _inside(value: Any, column: str) -> str:
    """Where in a mapping the lists are, as SQuAD has its answers."""
    lists = [key for key, part in value.items() if isinstance(part, list)] if isinstance(value, Mapping) else []
    return f": {column}.{lists[0]}" if lists else ""


def _is_missing(value: Any) -> bool:
    try:
        return text_of(value) is None
    except TypeError:  # a list or a mapping: `_text` says so
        return False


def _unknown_labels(table: Table, unknown: dict[str, list[int]], verbalizer: Verbalizer | None) -> str:
    found = [f"{label!r} ({rows_text(rows)})" for label, rows in unknown.items()]
    return (
        f"{table.origin}: {'label' if len(found) == 1 else 'labels'} {some(found, 3)} not in the label names"
        f" ({verbalizer}); add to data.label_names, or mend the rows"
    )


def dropped_text(dropped: Mapping[str, Sequence[int]]) -> str:
    """`2 rows: empty column 'text' (rows 4, 9)`, for each reason."""
    return "; ".join(f"{count(len(rows), 'row')}: {reason} ({rows_text(rows)})" for reason, rows in dropped.items())


def refuse_dropped(table: Table, dropped: Mapping[str, Sequence[int]]) -> NoReturn:
    """Raises DataError: the unusable rows, and the place of the first."""
    first = min(row for rows in dropped.values() for row in rows)
    raise DataError(
        f"{table.origin}: {dropped_text(dropped)}; the first is {table.place(first)};"
        f" mend them or set data.invalid_rows: drop"
    )
