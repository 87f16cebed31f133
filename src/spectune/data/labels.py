"""Raw label values as text, and label names from wherever a person keeps them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from spectune.data.json_files import parse_json
from spectune.data.locations import decode_text, existing_file, read_bytes
from spectune.errors import DataError

_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")
_INTEGER = re.compile(r"-?\d+")
_TRUTH = {"true": "1", "false": "0", "1": "true", "0": "false"}

LabelNames = Mapping[Any, Any] | list[Any]


def canonical_label(value: Any) -> str | None:
    """The one text for a label however a file spells it; None when it is missing.

    0, "0", 0.0 and "0.0" (pandas writes integers so beside a gap) are all "0"; True and "TRUE" are "true"; outer and
    repeated white space does not count.
    """
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    text = " ".join(str(value).split())
    if text.casefold() in ("true", "false"):
        return text.casefold()
    whole = _WHOLE_NUMBER.fullmatch(text)
    return (whole[1] if whole else text) or None


def truth_alias(label: str) -> str | None:
    """The other spelling of a yes-or-no label: "true" for "1", "0" for "false"."""
    return _TRUTH.get(label)


def is_integer_label(label: str) -> bool:
    """Whether a canonical label is a whole number."""
    return _INTEGER.fullmatch(label) is not None


def read_label_names(named: str) -> LabelNames:
    """The content of a `labels.json`: a list of names, or a mapping from label to words. Raises DataError."""
    path = existing_file(named)
    content = parse_json(decode_text(read_bytes(path), path), path)
    if isinstance(content, Mapping) and content and all(isinstance(words, int) for words in content.values()):
        raise DataError(f'{path} maps words to numbers; label names go from label to words, as in {{"0": "negative"}}')
    if not isinstance(content, list | Mapping) or not content:
        raise DataError(f"{path} must hold a list of label names, or a mapping from label to words")
    return content


def names_by_label(names: LabelNames, labels: Iterable[str], origin: str) -> dict[str, str]:
    """Canonical label → words as written.

    A list stands for the labels 0, 1, 2, …, unless the data's `labels` are names from the list themselves. Raises
    DataError for words that are no text, for two spellings of one label, and for a list that could be meant either
    way. Labels that are whole numbers come in their order: the second of two is the positive one of metrics.
    """
    pairs = list(names.items()) if isinstance(names, Mapping) else _pairs(names, set(labels), origin)
    result: dict[str, str] = {}
    for raw, words in pairs:
        label = canonical_label(raw)
        if label is None or not isinstance(words, str):
            raise DataError(f"{origin}: label {raw!r} must be named by a text, not by {words!r}")
        if label in result:
            raise DataError(f"{origin} names the label {label!r} twice")
        result[label] = words
    if all(map(is_integer_label, result)):
        return dict(sorted(result.items(), key=lambda pair: int(pair[0])))
    return {label: result[label] for label in ("false", "true")} if set(result) == {"false", "true"} else result


def _pairs(names: list[Any], labels: set[str], origin: str) -> list[tuple[Any, Any]]:
    """Label and name for a list of names: the labels are the names themselves, or their places."""
    known = [canonical_label(name) for name in names]
    places = [str(place) for place in range(len(names))]
    if not labels.issubset(known):
        return list(enumerate(names))
    if labels and labels.issubset(places) and any(known.index(label) != int(label) for label in labels):
        first = min(labels, key=int)
        raise DataError(
            f"{origin}: a label {first} could be the name {first!r} or the name at place {first}, "
            f"{names[int(first)]!r} (places count from 0); give a mapping from label to words"
        )
    return [(name, name) for name in names]
