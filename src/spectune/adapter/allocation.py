"""Which triplets survive: an exact count, deterministic, without reading the device."""

from __future__ import annotations

import torch
from torch import Tensor


def survivors(scores: Tensor, count: int, candidates: Tensor | None = None) -> Tensor:
    """The `count` best of all triplets, as a mask.

    Ties go to the lower number, NaN ranks last (PEFT's `<= threshold` drops all ties, and keeps everything on NaN).

    Args:
        scores: (n,).
        count: how many survive, known from the schedule.
        candidates: (n,) bool; others come last, whatever their score. None: all.

    Returns:
        (n,) bool with exactly min(count, n) true entries.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    keep[_ranking(scores, candidates)[:count]] = True
    return keep


def affordable(scores: Tensor, costs: Tensor, budget: int, candidates: Tensor | None = None) -> Tensor:
    """The triplets that come first by score per parameter, as many as the budget pays for, as a mask.

    Greedy for a knapsack whose pieces are small against it; ties and NaN as in `survivors`.

    Args:
        scores: (n,).
        costs: (n,) int64, parameters of each triplet.
        budget: parameters that the survivors may have together.
        candidates: (n,) bool; others are not chosen. None: all.

    Returns:
        (n,) bool. The costs of its true entries sum to at most `budget`; with the next in order they would exceed it.
    """
    order = _ranking(scores / costs, candidates)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    keep[order] = costs[order].cumsum(0) <= budget
    return keep if candidates is None else keep & candidates


def _ranking(scores: Tensor, candidates: Tensor | None) -> Tensor:
    """Numbers of all triplets, the best first."""
    ranked = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if candidates is None:
        return torch.argsort(ranked, descending=True, stable=True)
    # a candidate with a NaN score still comes before a triplet that is no candidate
    order = torch.argsort(ranked.masked_fill(~candidates, -torch.inf), descending=True, stable=True)
    return order[torch.argsort((~candidates[order]).to(torch.uint8), stable=True)]
