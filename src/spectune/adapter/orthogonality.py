"""The orthogonality penalty and its gradient, bank by bank.

R = γ / (2m) Σ (‖PᵀP − I‖_F + ‖QQᵀ − I‖_F) over m matrices: PEFT's form (the paper's equation 4 sums squared norms
and does not average). The gradient is analytic, 2 (G − I) X / ‖G − I‖_F with G = X Xᵀ for rows X; only the small
(G − I) / ‖G − I‖_F, the *slope*, is ever kept. It is as long near 0 as anywhere, so rows that are orthonormal but for
rounding count as orthonormal, with gradient 0: else an orthonormal start would be moved in a random direction by its
first step, and in another one wherever a sum was rounded otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectune.adapter.differentiable_once import differentiable_once

_ROUNDING = 1e-6  # norms below it, times the rows, count as 0: their direction is made of rounding


@dataclass(frozen=True)
class Frames:
    """How the n rows of a bank fall into m matrices of r places each, padded where ranks differ.

    `identity` is (m, r, r). `rows` (m · r,) is the row in each place and `places` (n,) the place of each row; both None
    where the bank simply reshapes. `counts` (m, r, r) is 1 where both rows count, neither padding nor dead; None where
    all do.
    """

    matrices: int
    identity: Tensor
    rows: Tensor | None = None
    places: Tensor | None = None
    counts: Tensor | None = None


def frames(sizes: Sequence[int], device: torch.device, dtype: torch.dtype, live: Tensor | None = None) -> Frames:
    """Lay out a bank of consecutive matrices with `sizes` rows; `live` is (n,) bool, None where all count."""
    width = max(sizes, default=0)
    identity = torch.eye(width, device=device, dtype=dtype).expand(len(sizes), -1, -1)
    ragged = any(size != width for size in sizes)
    if live is None and not ragged:
        return Frames(len(sizes), identity)
    places = torch.tensor([matrix * width + row for matrix, size in enumerate(sizes) for row in range(size)])
    places = places.to(device=device, dtype=torch.int64)
    alive = torch.ones_like(places, dtype=torch.bool) if live is None else live
    every = len(sizes) * width
    counts = torch.zeros(every, dtype=torch.bool, device=device).index_copy_(0, places, alive).view(len(sizes), width)
    both = (counts.unsqueeze(1) & counts.unsqueeze(2)).to(dtype)
    if not ragged:
        return Frames(len(sizes), identity, counts=both)
    rows = torch.zeros(every, dtype=torch.int64, device=device)
    rows.index_copy_(0, places, torch.arange(len(places), device=device))
    return Frames(len(sizes), identity, rows, places, both)


@torch.no_grad()
def add_gradient(rows: Tensor, layout: Frames, weight: float, grad: Tensor) -> Tensor:
    """Add weight · ∂(Σ ‖X Xᵀ − I‖_F) to `grad`, (n, width), in place; returns the norms, (m,)."""
    with torch.autocast(rows.device.type, enabled=False):
        x = _by_matrix(rows, layout)
        norms, slope = _norms_and_slope(x, layout)
        if layout.places is None:
            grad.view_as(x).baddbmm_(slope, x, alpha=2.0 * weight)
        else:
            grad.add_(torch.bmm(slope, x).flatten(0, 1).index_select(0, layout.places), alpha=2.0 * weight)
    return norms


class Penalty(torch.autograd.Function):
    """weight · Σ norms over banks, differentiable once with respect to the rows of each bank."""

    @staticmethod
    def forward(ctx: Any, weight: float, layouts: Sequence[Frames], *banks: Tensor) -> Tensor:
        norms, ctx.slopes = [], []
        for rows, layout in zip(banks, layouts, strict=True):
            with torch.autocast(rows.device.type, enabled=False):
                norm, slope = _norms_and_slope(_by_matrix(rows, layout), layout)
            norms.append(norm)
            ctx.slopes.append(slope)
        ctx.save_for_backward(*banks)
        ctx.weight, ctx.layouts = weight, layouts
        return torch.cat(norms).sum() * weight

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients = []
        with torch.no_grad():
            factor = grad * (2.0 * ctx.weight)
            for rows, slope, layout in zip(ctx.saved_tensors, ctx.slopes, ctx.layouts, strict=True):
                with torch.autocast(rows.device.type, enabled=False):
                    gradient = torch.bmm(slope * factor, _by_matrix(rows, layout)).flatten(0, 1)
                gradients.append(gradient if layout.places is None else gradient.index_select(0, layout.places))
        return differentiable_once((None, None, *gradients), grad, *ctx.saved_tensors)


def _by_matrix(rows: Tensor, layout: Frames) -> Tensor:
    """The rows of a bank as (m, r, width); what padding holds does not matter, `counts` leaves it out."""
    if layout.rows is not None:
        rows = rows.index_select(0, layout.rows)
    return rows.view(layout.matrices, -1, rows.shape[1])


def _norms_and_slope(x: Tensor, layout: Frames) -> tuple[Tensor, Tensor]:
    """‖G − I‖_F for x (m, r, width), (m,), and (G − I) / ‖G − I‖_F, (m, r, r)."""
    excess = torch.baddbmm(layout.identity, x, x.transpose(1, 2), beta=-1)
    if layout.counts is not None:
        excess.mul_(layout.counts)
    norms = torch.linalg.vector_norm(excess, dim=(1, 2), keepdim=True)
    return norms.flatten(), excess.div_(norms.masked_fill(norms <= _ROUNDING * excess.shape[-1], torch.inf))
