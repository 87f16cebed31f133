"""The JSON lines: one for each run, appended when it is done; what is there is not run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

Value = Callable[[Mapping[str, float]], float]
"""The score that decides, of a task's scores by name."""

GRID = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
"""Learning rates of P and Q, or of whatever a method trains; the same for all."""
START = (2, 3)
"""Where the search on the grid begins."""


@dataclass(frozen=True)
class Key:
    """One run."""

    stage: str
    """`search` (validation only), `confirm` (test rows too) or `curve` (validation, also on the way)."""
    task: str
    method: str
    rank: int
    seed: int
    rate: float


class Results:
    """The lines of a file, by key. Final."""

    def __init__(self, path: Path) -> None:
        """Reads what is there; a line that was cut off by a kill is left out."""
        self.path, self._lines = path, dict[Key, dict[str, Any]]()
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        self._cut = not text.endswith("\n") and bool(text)
        for line in text.splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            self._lines[Key(**entry.pop("key"))] = entry

    def __contains__(self, key: Key) -> bool:
        return key in self._lines

    def __getitem__(self, key: Key) -> dict[str, Any]:
        return self._lines[key]

    def __iter__(self) -> Iterator[Key]:
        return iter(self._lines)

    def add(self, key: Key, found: dict[str, Any]) -> None:
        """Append a line; it is on the disk when this returns."""
        self._lines[key] = found
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"key": asdict(key), **found}, ensure_ascii=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(("\n" if self._cut else "") + line + "\n")
        self._cut = False

    def searched(
        self, value: Value, task: str, method: str, rank: int, seeds: Collection[int] = ()
    ) -> dict[float, tuple[float, float]]:
        """Merit of each rate of a search: the mean over `seeds`, or over all there are; not of rates that lack one."""
        merits: dict[float, dict[int, tuple[float, float]]] = {}
        for key, entry in self._lines.items():
            if (key.stage, key.task, key.method, key.rank) == ("search", task, method, rank):
                merits.setdefault(key.rate, {})[key.seed] = merit(entry, value)
        needed = set(seeds) or {seed for by_seed in merits.values() for seed in by_seed}
        return {
            rate: _mean([by_seed[seed] for seed in needed])
            for rate, by_seed in merits.items()
            if needed <= by_seed.keys()
        }

    def best_rate(self, value: Value, task: str, method: str, rank: int) -> float | None:
        """The rate that the search chose on validation; None before the search is over."""
        found = self.searched(value, task, method, rank)
        return max(found, key=found.__getitem__) if found and next_rate(found) is None else None


def merit(entry: dict[str, Any], value: Value) -> tuple[float, float]:
    """Higher is better: the value, then the loss."""
    scores = entry["validation"]
    loss = scores.get("eval_loss")
    return value(scores), -(loss if loss is not None and loss == loss else float("inf"))


def _mean(merits: Iterable[tuple[float, float]]) -> tuple[float, float]:
    values, losses = zip(*merits, strict=True)
    return mean(values), mean(losses)


def next_rate(found: dict[float, tuple[float, float]]) -> float | None:
    """The next rate to try: the search begins at two in the middle and goes the way that is better, until it is not.

    Args:
        found: merit of each rate that was tried.
    """
    for place in START:
        if GRID[place] not in found:
            return GRID[place]
    best = max(found, key=found.__getitem__)
    for place in (GRID.index(best) - 1, GRID.index(best) + 1):
        if 0 <= place < len(GRID) and GRID[place] not in found:
            return GRID[place]
    return None
