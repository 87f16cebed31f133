"""Values out of a run's files, which may be damaged or somebody's trap: every one is checked where it is taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

LARGEST = 2**53  # beyond, a script's numbers are no longer whole


def clean(value: Any) -> Any:
    """A JSON value without what a page cannot hold: NaN and infinity become None, half surrogates �."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [clean(entry) for entry in value]
    if isinstance(value, dict):
        return {clean(str(key)): clean(entry) for key, entry in value.items()}
    return value


def number(value: Any) -> float | None:
    """A finite number that a script can hold, else None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and abs(value) <= LARGEST else None


def whole(value: Any) -> int | None:
    """A whole number from 0 up, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


def mapping(value: Any) -> dict[str, Any]:
    """A mapping, or an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}


def entries(value: Any) -> list[Any]:
    """A list, or an empty one in the place of anything else."""
    return value if isinstance(value, list) else []


def numbers(value: Any) -> dict[str, float]:
    """The entries of a mapping that are numbers."""
    checked = {name: number(entry) for name, entry in mapping(value).items()}
    return {name: entry for name, entry in checked.items() if entry is not None}


def wholes(value: Any) -> dict[str, int]:
    """The entries of a mapping that are whole numbers from 0 up."""
    checked = {name: whole(entry) for name, entry in mapping(value).items()}
    return {name: entry for name, entry in checked.items() if entry is not None}


def whole_list(value: Any) -> list[int]:
    """A list of whole numbers, empty if one of them is something else."""
    checked = [whole(entry) for entry in entries(value)]
    return [] if None in checked else [entry for entry in checked if entry is not None]


def shown(value: float | int | None, digits: int = 4) -> str:
    """A number for people: whole ones with separators, others with some digits, a dash for none."""
    if value is None:
        return "–"
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """`4.2 s`, `3:05 min`, `2:03:05 h`, with a space that does not break."""
    if seconds < 60:
        return f"{seconds:.1f}\N{NO-BREAK SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes_left = divmod(minutes, 60)
    clock = f"{hours}:{minutes_left:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
    return f"{clock}\N{NO-BREAK SPACE}{'h' if hours else 'min'}"


def thinned(count: int, most: int) -> list[int]:
    """Positions of at most `most` of `count` things, evenly spread, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def means(values: Sequence[float | None], size: int) -> list[float | None]:
    """Means of each `size` values in a row; None counts for nothing."""
    result: list[float | None] = []
    for start in range(0, len(values), size):
        known = [value for value in values[start : start + size] if value is not None]
        result.append(sum(known) / len(known) if known else None)
    return result
