"""Banks of rank-one triplets: flat matrices with one row per triplet, the only trainable leaves of the adapter.

ΔW = s · P Λ Q of one matrix (out × in) is r triplets (column of P, λ, row of Q). All triplets of a model are
numbered matrix by matrix; one bank holds every λ, and one bank per distinct width holds the rows of Q (width = in
features) or of Pᵀ (width = out features). What a layer multiplies with are *parts*: one bank-wide operation makes
them for all layers of a bank, once per root forward.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from spectune.adapter.differentiable_once import differentiable_once


class Bank(nn.Module):
    """Rows of the triplets of some matrices, contiguous matrix by matrix.

    The Parameter's name contains `lora_A`, `lora_B` or `lora_E` through the module's name. A bank is left out of
    `state_dict`: PEFT's entries, which are aliases of its rows, stand for it there.
    """

    rows: nn.Parameter
    triplets: Tensor

    def __init__(self, rows: Tensor, triplets: Tensor, members: list[int], sizes: list[int]) -> None:
        """Make a bank.

        Args:
            rows: (n, width), or (n,) for the bank of all λ; contiguous.
            triplets: (n,) number of each row's triplet.
            members: numbers of the matrices, in row order.
            sizes: rows of each member; sums to n.
        """
        super().__init__()
        self.rows = nn.Parameter(rows)
        self.register_buffer("triplets", triplets, persistent=False)
        self.members = members
        self.sizes = sizes

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the aliases are saved."""

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: loading writes through the aliases."""

    def _apply(self, fn: Any, recurse: bool = True) -> Bank:
        """Follow a move to another device; a cast to fp16 or bf16 leaves the masters as they are."""
        return cast(Bank, cast(Any, super())._apply(lambda tensor: _keep_precision(tensor, fn(tensor)), recurse))


def _keep_precision(before: Tensor, after: Tensor) -> Tensor:
    if after.dtype == before.dtype or after.element_size() > before.element_size():
        return after
    return before.to(after.device)


def query_parts(bank: Bank, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Rows of Q per matrix, (r, in) each."""
    if dtype == bank.rows.dtype:  # autograd's own split; its backward is the concatenation
        return cast(tuple[Tensor, ...], bank.rows.split(bank.sizes))
    return cast(tuple[Tensor, ...], cast(Any, _Parts).apply(bank.rows, None, bank, 1.0, dtype))


def output_parts(bank: Bank, values: Tensor, scale: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """S = s · λ · Pᵀ per matrix, (r, out) each.

    Args:
        bank: rows of Pᵀ.
        values: (n_triplets,) all λ.
        scale: s = lora_alpha / (init_r + 1e-5).
        dtype: what the base multiplies in.
    """
    return cast(tuple[Tensor, ...], cast(Any, _Parts).apply(bank.rows, values, bank, scale, dtype))


class _Parts(torch.autograd.Function):
    """rows → (rows · s · λ) in `dtype`, split by matrix. Saves no tensor: a graph of parts is walked repeatedly by
    re-entrant checkpointing. A part without gradient (layer dropout, an idle expert) counts as zero."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, values: Tensor | None, bank: Bank, scale: float, dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.bank, ctx.values, ctx.scale = bank, values, scale
        ctx.versions = rows._version, None if values is None else values._version
        ctx.factors = None if values is None else (values[bank.triplets] * scale).unsqueeze(1)  # (n, 1)
        whole = rows if values is None else rows * ctx.factors
        return cast(tuple[Tensor, ...], whole.to(dtype).split(bank.sizes))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        bank: Bank = ctx.bank
        if (bank.rows._version, None if ctx.values is None else ctx.values._version) != ctx.versions:
            raise RuntimeError("the adapter's weights were changed in place between forward and backward")
        with torch.no_grad():
            gradients = _gradients_of_parts(ctx, grads)
        return differentiable_once(gradients, *grads, bank.rows, ctx.values)


def _gradients_of_parts(ctx: Any, grads: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """Of rows (n, width) and of all λ, for gradients (r, width) of each part."""
    bank: Bank = ctx.bank
    grad = _concatenate(grads, bank.sizes, bank.rows)
    if grad is None or ctx.values is None:
        return grad, None, None, None, None
    d_values = torch.zeros_like(ctx.values)
    d_values.index_copy_(0, bank.triplets, (grad * bank.rows).sum(1).mul_(ctx.scale))
    return grad.mul_(ctx.factors), d_values, None, None, None


def _concatenate(grads: tuple[Tensor | None, ...], sizes: list[int], rows: Tensor) -> Tensor | None:
    """(n, width) in the bank's dtype, or None where no part has a gradient. Always a fresh tensor."""
    known = next((grad for grad in grads if grad is not None), None)
    if known is None:
        return None
    whole = torch.cat(
        [
            known.new_zeros((size, rows.shape[1])) if grad is None else grad
            for grad, size in zip(grads, sizes, strict=True)
        ]
    )
    return whole.to(rows.dtype)
