"""Short wordings shared by the data's reports and error lines."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

_SHOWN = 8
_SHOWN_NAMES = 20


def some(values: Sequence[object], shown: int = _SHOWN) -> str:
    """The first values, then how many more there are: `4, 9, 12 and 30 more`."""
    text = ", ".join(str(value) for value in values[:shown])
    return f"{text} and {len(values) - shown:,} more" if len(values) > shown else text


def rows_text(rows: Sequence[int]) -> str:
    """`row 4` or `rows 4, 9`."""
    return f"{'row' if len(rows) == 1 else 'rows'} {some(rows)}"


def count(number: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def nearest_hint(name: str, options: Iterable[str]) -> str:
    """` (did you mean 'text'?)`, or nothing when no option is near."""
    by_folded = {option.casefold(): option for option in options}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=2, cutoff=0.6)
    return f" (did you mean {' or '.join(repr(by_folded[match]) for match in close)}?)" if close else ""


def separator_hint(columns: Sequence[str]) -> str:
    """What to do where a table's only column has another separator in its name; else nothing."""
    sign = next((sign for sign in ";|\t" if len(columns) == 1 and sign in columns[0]), None)
    return "" if sign is None else f"; it looks separated by {sign!r}: save it with commas, or with tabs as .tsv"


def names_text(names: Sequence[str]) -> str:
    """Names in a row, at most twenty of them."""
    return some(names, _SHOWN_NAMES) or "none"


def excerpt(text: str, length: int = 60) -> str:
    """A text on one line, quoted and cut for an error line."""
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= length else flat[:length] + "…")
