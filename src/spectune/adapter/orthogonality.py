"""The orthogonality penalty and its gradient, bank by bank.

R = γ / (2m) Σ (‖PᵀP − I‖_F + ‖QQᵀ − I‖_F) over m matrices: PEFT's form (the paper's equation 4 sums squared norms
and does not average). The gradient is analytic, 2 (G − I) X / ‖G − I‖_F with G = X Xᵀ for rows X, and 0 at 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Frames:
    """How a bank's rows fall into matrices of r rows each, padded where ranks differ.

    `index` is (m, r) row numbers, None where the rows simply reshape; `identity` is (m, r, r) or (1, r, r): ones on the
    diagonal of rows that count. Rows that do not count (padding, dead triplets) are zeroed by `weight`, (m, r, 1).
    """

    matrices: int
    index: Tensor | None
    identity: Tensor
    weight: Tensor | None


def frames(sizes: Sequence[int], device: torch.device, dtype: torch.dtype, live: Tensor | None = None) -> Frames:
    """Lay out a bank of consecutive matrices with `sizes` rows; `live` is (rows,) bool, None where all count."""
    width = max(sizes, default=0)
    if live is None and all(size == width for size in sizes):
        return Frames(len(sizes), None, torch.eye(width, device=device, dtype=dtype).unsqueeze(0), None)
    starts = torch.tensor([0, *sizes[:-1]], device=device).cumsum(0)
    offset = torch.arange(width, device=device)
    valid = offset < torch.tensor(list(sizes), device=device).unsqueeze(1)
    index = torch.where(valid, starts.unsqueeze(1) + offset, 0)
    if live is not None:
        valid = valid & live[index]
    weight = valid.to(dtype)
    return Frames(len(sizes), index, torch.diag_embed(weight), weight.unsqueeze(2))


def norms_and_gradient(rows: Tensor, layout: Frames) -> tuple[Tensor, Tensor]:
    """Sum of ‖X Xᵀ − I‖_F over the matrices of a bank, a scalar, and its gradient with respect to the rows."""
    with torch.autocast(rows.device.type, enabled=False):
        return _norms_and_gradient(rows, layout)


def _norms_and_gradient(rows: Tensor, layout: Frames) -> tuple[Tensor, Tensor]:
    if layout.index is None or layout.weight is None:
        x = rows.view(layout.matrices, -1, rows.shape[1])  # (m, r, width)
    else:
        x = rows[layout.index] * layout.weight
    excess = torch.baddbmm(layout.identity.expand(len(x), -1, -1), x, x.transpose(1, 2), beta=-1)  # G − I, (m, r, r)
    norm = torch.linalg.vector_norm(excess, dim=(1, 2))
    factor = torch.where(norm > 0, 2.0 / norm, 0.0)
    gradient = torch.bmm(excess * factor.view(-1, 1, 1), x)
    if layout.index is None or layout.weight is None:
        return norm.sum(), gradient.view_as(rows)
    gradient = gradient * layout.weight
    flat = torch.zeros_like(rows).index_add_(0, layout.index.flatten(), gradient.flatten(0, 1))
    return norm.sum(), flat


class Penalty(torch.autograd.Function):
    """weight · Σ norms over banks, differentiable once with respect to the rows of each bank."""

    @staticmethod
    def forward(ctx: Any, weight: float, layouts: Sequence[Frames], *banks: Tensor) -> Tensor:
        pairs = [norms_and_gradient(rows, layout) for rows, layout in zip(banks, layouts, strict=True)]
        ctx.weight, ctx.gradients = weight, [gradient for _, gradient in pairs]
        return torch.stack([total for total, _ in pairs]).sum() * weight

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *torch._foreach_mul(ctx.gradients, grad * ctx.weight)
