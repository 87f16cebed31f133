"""Labels as words: a checked bijection."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from spectune.data.labels import LabelNames, canonical_label, is_integer_label, names_by_label, truth_alias
from spectune.data.wording import some
from spectune.errors import DataError

_VERSION = 1


class Verbalizer:
    """Label ↔ words; every label has words, and no two labels share them.

    Words are compared, and written as targets, with white space stripped and runs of it as one space: tokenizers do
    not keep more.
    """

    def __init__(self, words: Mapping[str, str], origin: str = "label_names") -> None:
        """`words` maps each canonical label to its words.

        Raises:
            DataError: no labels, a label without words, or two labels with the same words.
        """
        self._words = {label: " ".join(text.split()) for label, text in words.items()}
        self._labels: dict[str, str] = {}
        if not self._words:
            raise DataError(f"{origin} names no labels")
        for label, text in self._words.items():
            if not text:
                raise DataError(f"{origin}: label {label!r} has no words")
            if text in self._labels:
                raise DataError(
                    f"{origin}: labels {self._labels[text]!r} and {label!r} are both written {text!r};"
                    f" their outputs could not be told apart"
                )
            self._labels[text] = label

    @classmethod
    def from_names(cls, names: LabelNames, labels: Iterable[str] = (), origin: str = "label_names") -> Verbalizer:
        """From a mapping or a list of names; `labels` are the canonical labels of the data (see `names_by_label`)."""
        return cls(names_by_label(names, labels, origin), origin)

    @classmethod
    def from_values(cls, labels: Iterable[str], origin: str = "the labels") -> Verbalizer:
        """Each label is written as itself; numbers in order, then texts in order."""
        ordered = sorted(
            set(labels), key=lambda label: (0, int(label), "") if is_integer_label(label) else (1, 0, label)
        )
        return cls({label: label for label in ordered}, origin)

    @property
    def labels(self) -> tuple[str, ...]:
        """The canonical labels, in order."""
        return tuple(self._words)

    @property
    def words(self) -> tuple[str, ...]:
        """The words, in the order of the labels."""
        return tuple(self._words.values())

    def label_of(self, value: Any) -> str | None:
        """The label that a raw value of the data means, which may be its words; None when it is missing or unknown."""
        label = canonical_label(value)
        if label is None or label in self._words:
            return label
        alias = truth_alias(label)
        return alias if alias in self._words else self._labels.get(label)

    def to_text(self, value: Any) -> str:
        """The words for a label. Raises DataError for one outside the map."""
        label = self.label_of(value)
        if label is None:
            raise DataError(f"label {value!r} is not among {self}")
        return self._words[label]

    def to_label(self, text: str) -> str | None:
        """The label whose words `text` is, white space aside; None for any other text."""
        return self._labels.get(" ".join(text.split()))

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with a version; `from_dict` gives the same map back."""
        return {"version": _VERSION, "words": dict(self._words)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Verbalizer:
        """Back from `as_dict`. Raises DataError for anything else."""
        words = state.get("words")
        if state.get("version") != _VERSION or not isinstance(words, Mapping):
            raise DataError(f"the stored label names are not of version {_VERSION}")
        if not all(isinstance(part, str) for pair in words.items() for part in pair):
            raise DataError("the stored label names must map texts to texts")
        return cls(words, "the stored label names")

    def __len__(self) -> int:
        return len(self._words)

    def __eq__(self, other: object) -> bool:
        # The order counts: confusion matrices and class lists follow it.
        return isinstance(other, Verbalizer) and list(self._words.items()) == list(other._words.items())

    def __hash__(self) -> int:
        return hash(tuple(self._words.items()))

    def __str__(self) -> str:
        return some([label if label == words else f"{label} → {words}" for label, words in self._words.items()])

    def __repr__(self) -> str:
        return f"Verbalizer({self._words!r})"
