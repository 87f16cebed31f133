"""Contenders alternate inside one run, so that the machine's moods meet all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch

Measure = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True)
class Timings:
    """What was measured in each round: {contender: values}, the same number of rounds each; any unit."""

    values: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """The middle value of a contender."""
        return median(self.values[name])

    def ratio(self, name: str, other: str) -> float:
        """Median over the rounds of name / other, each pair of the same round."""
        return median(mine / theirs for mine, theirs in self._pairs(name, other))

    def beyond(self, name: str, other: str) -> float:
        """Median over the rounds of name − other, each pair of the same round."""
        return median(mine - theirs for mine, theirs in self._pairs(name, other))

    def spread(self, name: str, other: str) -> tuple[float, float]:
        """Lower and upper quartile of name − other over the rounds; the single value twice after one round."""
        differences = [mine - theirs for mine, theirs in self._pairs(name, other)]
        lower, _, upper = quantiles(differences, n=4) if len(differences) > 1 else differences * 3
        return lower, upper

    def _pairs(self, name: str, other: str) -> Iterable[tuple[float, float]]:
        return zip(self.values[name], self.values[other], strict=True)


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call, the accelerator's queue emptied before and after."""
    _wait()
    start = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def alternate(
    contenders: Mapping[str, Callable[[], Any]], *, rounds: int, warm_up: int = 1, measure: Measure = seconds
) -> Timings:
    """Call every contender once a round, in an order that rotates by one each round.

    Args:
        contenders: work by name.
        rounds: how many values each contender gets.
        warm_up: rounds before them that do not count.
        measure: what one call of a contender costs; wall seconds unless given (a contender that runs in a process of
            its own and returns its seconds is measured by `lambda work: work()`).
    """
    names = list(contenders)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(warm_up + rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            value = measure(contenders[name])
            if number >= warm_up:
                found[name].append(value)
    return Timings(found)
