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
    ranked = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    if candidates is not None:
        ranked = ranked.masked_fill(~candidates, -torch.inf)
        # a candidate with a NaN score still comes before a triplet that is no candidate
        order = torch.argsort(ranked, descending=True, stable=True)
        order = order[torch.argsort((~candidates[order]).to(torch.uint8), stable=True)]
    else:
        order = torch.argsort(ranked, descending=True, stable=True)
    keep = torch.zeros_like(scores, dtype=torch.bool)
    keep[order[:count]] = True
    return keep
