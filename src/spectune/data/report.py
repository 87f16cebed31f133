"""What was found in the data, for people and as JSON."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spectune.data.examples import Example
from spectune.data.splits import overlap, repeats
from spectune.data.wording import count, rows_text, some

_SHOWN_LABELS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitReport:
    """One split: where its rows come from, and what is odd about them."""

    name: str
    origin: str
    rows_read: int
    examples: int
    dropped: dict[str, list[int]]
    """Reason → row numbers."""
    repeated: list[int]
    """Rows whose source occurred in an earlier row."""
    conflicting: list[int]
    """Those of them with another target."""
    labels: dict[str, int]
    """Words of a label → rows; empty unless classification."""

    @classmethod
    def of(
        cls, name: str, origin: str, rows_read: int, examples: Sequence[Example], dropped: dict[str, list[int]]
    ) -> SplitReport:
        """Counts the examples of a split."""
        repeated, conflicting = repeats(examples)
        labels = Counter(example.target for example in examples if example.label is not None)
        return cls(
            name=name,
            origin=origin,
            rows_read=rows_read,
            examples=len(examples),
            dropped=dropped,
            repeated=repeated,
            conflicting=conflicting,
            labels=dict(sorted(labels.items())),
        )

    def lines(self) -> list[str]:
        """For people: the size, one line for each oddity, the labels."""
        taken = "" if self.examples == self.rows_read else f" of {self.rows_read:,}"
        lines = [f"{self.name}: {self.examples:,}{taken} rows of {self.origin}", *self.oddities()]
        if 0 < len(self.labels) <= _SHOWN_LABELS:
            lines.append(f"{self.name} labels: {', '.join(f'{name} {rows:,}' for name, rows in self.labels.items())}")
        elif self.labels:
            sizes = self.labels.values()
            lines.append(f"{self.name} labels: {len(sizes):,}, each on {min(sizes):,} to {max(sizes):,} rows")
        return lines

    def oddities(self) -> list[str]:
        """Rows left out and rows that repeat others, with their numbers."""
        lines = []
        for reason, rows in self.dropped.items():
            lines.append(f"{self.name}: {count(len(rows), 'row')} left out, {reason} ({rows_text(rows)})")
        if self.repeated:
            conflict = f", {len(self.conflicting):,} with another target ({rows_text(self.conflicting)})"
            if self.conflicting == self.repeated:
                conflict = ", with another target"
            lines.append(
                f"{self.name}: {count(len(self.repeated), 'row')} {'repeats' if len(self.repeated) == 1 else 'repeat'} "
                f"the source of an earlier one"
                f" ({rows_text(self.repeated)}){conflict if self.conflicting else ''}"
            )
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReport:
    """All splits of a run, what they share, and remarks."""

    splits: list[SplitReport]
    overlaps: dict[str, list[int]] = field(default_factory=dict)
    """"validation in train" → rows of the former whose source is in the latter."""
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people: short lines, row numbers cut after the first few."""
        return [line for split in self.splits for line in split.lines()] + self._overlap_lines() + self.notes

    def oddities(self) -> list[str]:
        """Those of the lines that tell of something odd in the rows."""
        return [line for split in self.splits for line in split.oddities()] + self._overlap_lines()

    def _overlap_lines(self) -> list[str]:
        lines = []
        for where, rows in self.overlaps.items():
            inner, _, outer = where.partition(" in ")
            lines.append(
                f"{inner}: {count(len(rows), 'row')} whose source is also in {outer} ({rows_text(rows)}); kept"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, with every row number."""
        return asdict(self)


def overlaps_between(splits: dict[str, list[Example]]) -> dict[str, list[int]]:
    """Which rows of each split have a source that an earlier split has too; pairs that share none are left out."""
    names = list(splits)
    pairs = [(first, second) for index, second in enumerate(names) for first in names[:index]]
    found = {f"{second} in {first}": overlap(splits[first], splits[second]) for first, second in pairs}
    return {where: rows for where, rows in found.items() if rows}


def label_notes(labels: dict[str, int], words: dict[str, str], *, named: bool) -> list[str]:
    """Remarks on the labels of all splits together: `labels` → rows, `words` → what is written for each."""
    notes = []
    numbers = [label for label in labels if not named and _is_number(label)]
    if numbers:
        notes.append(
            f"labels are numbers and are written as such ({some(numbers, 3)}); words learn better:"
            f" give data.label_names, as in {{{_as_key(numbers[0])}: negative}}"
        )
    if len(words) == 1:
        notes.append(f"all rows have the label {next(iter(words))!r}: there is nothing to tell apart")
    if unused := [label for label in words if label not in labels]:
        notes.append(f"{count(len(unused), 'label')} without a row: {some(unused)}")
    folded = Counter(text.casefold() for text in words.values())
    if alike := [text for text in words.values() if folded[text.casefold()] > 1]:
        notes.append(f"label words that differ only in case: {some(alike)}")
    rows = sum(labels.values())
    if len(labels) > 20 and 2 * len(labels) > rows:
        notes.append(f"{len(labels):,} labels on {rows:,} rows: for free text set data.task to text2text")
    return notes


def _is_number(label: str) -> bool:
    try:
        return math.isfinite(float(label))
    except ValueError:
        return False


def _as_key(label: str) -> str:
    """A number as a key in a run file: in quotes where YAML would read another spelling of it."""
    return label if label in (str(int(float(label))), repr(float(label))) else repr(label)
