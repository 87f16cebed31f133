"""A metric's value, and what every metric reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number and what it depends on."""

    value: float
    signature: str


@dataclass(frozen=True)
class Texts:
    """What every metric reads: one stripped prediction, its references and, for classification, the label words."""

    predictions: Sequence[str]
    references: Sequence[Sequence[str]]
    labels: Sequence[str]

    def targets(self) -> list[str]:
        """One right text a row: the prediction where it is among them, else the first."""
        pairs = zip(self.predictions, self.references, strict=True)
        return [prediction if prediction in row else row[0] for prediction, row in pairs]

    def reference_count(self) -> str:
        """sacrebleu's way to write it: the number of references per row, `var` when it varies."""
        counts = {len(row) for row in self.references}
        return str(counts.pop()) if len(counts) == 1 else "var"


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return sum(values) / len(values)
