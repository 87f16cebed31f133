"""Importance of triplets: sensitivity and uncertainty, smoothed over steps.

Paper, equations 8 to 10 (PEFT's `RankAllocator.update_ipt`): with I = |θ · ∂L/∂θ| per entry,
Ī ← β1 Ī + (1 − β1) I,  Ū ← β2 Ū + (1 − β2) |I − Ī|,  s = Ī · Ū,
and the score of a triplet is s(λ) + mean s(column of P) + mean s(row of Q).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


@torch.no_grad()
def update_averages(
    weights: list[Tensor],
    grads: list[Tensor],
    sensitivity: list[Tensor],
    uncertainty: list[Tensor],
    *,
    beta1: float,
    beta2: float,
    skip: Tensor | None = None,
) -> None:
    """One step of both averages, in place, for lists of equally shaped tensors.

    Args:
        weights: θ.
        grads: ∂L/∂θ.
        sensitivity: Ī, updated.
        uncertainty: Ū, updated.
        beta1: smoothing of the sensitivity.
        beta2: smoothing of the uncertainty.
        skip: scalar on the device, true where the step has a non-finite gradient: averages stay as they are.
    """
    now = list(torch._foreach_mul(weights, grads))
    torch._foreach_abs_(now)
    rates: list[Tensor] | list[float] = [1.0 - beta1, 1.0 - beta2]
    if skip is not None:  # finite numbers, whatever they are, at rate 0
        for tensor in now:
            tensor.nan_to_num_()
        rates = [torch.where(skip, 0.0, rate) for rate in rates]
    _move(sensitivity, now, rates[0])
    torch._foreach_sub_(now, sensitivity)
    torch._foreach_abs_(now)
    _move(uncertainty, now, rates[1])


def _move(averages: list[Tensor], targets: list[Tensor], rate: Tensor | float) -> None:
    """averages ← averages + rate · (targets − averages), in place; exactly unchanged at rate 0."""
    if isinstance(rate, float):
        torch._foreach_lerp_(averages, targets, rate)
    else:
        torch._foreach_lerp_(averages, targets, [rate.to(average.dtype) for average in averages])


def triplet_scores(
    sensitivity: Sequence[Tensor], uncertainty: Sequence[Tensor], triplets: Sequence[Tensor | None]
) -> Tensor:
    """Score of every triplet, (n,).

    Args:
        sensitivity: first that of all λ, (n,), then those of the banks, (rows, width) each.
        uncertainty: likewise.
        triplets: None for λ, then the triplet's number for each row of a bank, (rows,).
    """
    scores = sensitivity[0] * uncertainty[0]
    for smooth, spread, numbers in zip(sensitivity[1:], uncertainty[1:], triplets[1:], strict=True):
        assert numbers is not None
        scores.index_add_(0, numbers, (smooth * spread).mean(1))
    return scores
