"""The adapted linear map y = W x + b + S ᵀ(Q x), with S = s · λ · Pᵀ, as matrix products alone.

The low-rank term is accumulated into the base's output in place; nothing as wide as the output is multiplied,
divided or added on its own. Beyond the frozen base this is 2 products forward and 4 backward.

The thin products are written with their r rows first (q xᵀ, not x qᵀ): the same numbers, and a third faster where a
processor's library divides the work by rows.
"""

from __future__ import annotations

from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

from spectune.adapter.differentiable_once import differentiable_once


class LowRankLinear(torch.autograd.Function):
    """Fused forward and backward for a base weight in the parts' own precision.

    Shapes: x (…, in), weight (out, in), bias (out,) or None, q (r, in), s (r, out). Differentiable once, in x, q and s.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, q: Tensor, s: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out, z = accumulate(rows, weight, bias, q, s)
        ctx.save_for_backward(rows, weight, q, s, z, x)  # x for its graph alone; its memory is that of rows
        ctx.shape = x.shape
        # not a view to autograd, as in torch.matmul: models change it in place (LED divides its queries)
        return cast(Tensor, torch.ops.aten._unsafe_view.default(out, [*x.shape[:-1], out.shape[1]]))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, q, s, z, x = ctx.saved_tensors
        with torch.no_grad():
            flat = grad.reshape(-1, grad.shape[-1])
            dz = s.mm(flat.t())
            dx = flat.mm(weight).addmm_(dz.t(), q).view(ctx.shape) if ctx.needs_input_grad[0] else None
            gradients = dx, None, None, dz.mm(rows), z.mm(flat)
        return differentiable_once(gradients, grad, x, q, s)


def accumulate(rows: Tensor, weight: Tensor, bias: Tensor | None, q: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """W x + b + Sᵀ(Q x) for rows (n, in); returns it, (n, out), and z = Q x, (r, n)."""
    out = rows.mm(weight.t()) if bias is None else torch.addmm(bias, rows, weight.t())
    z = q.mm(rows.t())
    return out.addmm_(z.t(), s), z


class Factors:
    """What one layer multiplies with; assigned for all layers of a bank by one refresh, dropped when stale."""

    __slots__ = ("owner", "q", "s")

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.q: Tensor | None = None
        self.s: Tensor

    def __getstate__(self) -> Any:  # parts carry autograd history, which can be neither copied nor pickled
        return self.owner

    def __setstate__(self, owner: Any) -> None:
        self.owner = owner
        self.q = None


def stale(factors: Factors) -> bool:
    """Whether the parts must be made anew: they were dropped, or made without gradient for a bank that has one.

    By a forward under `no_grad` since; what is differentiated now (a re-entrant checkpoint, computed again, or an
    encoder called by itself) would leave the adapter out. S tells: views of Q's rows say that they have a gradient,
    made without or not.
    """
    if factors.q is None:
        return True
    return torch.is_grad_enabled() and not factors.s.requires_grad and factors.owner.values.rows.requires_grad


def adapted_linear(base: nn.Module, x: Tensor, factors: Factors, dropout: nn.Module | None) -> Tensor:
    """Output of one adapted layer; the fused path where the base is a plain frozen Linear in the parts' precision.

    Args:
        base: the frozen layer, any class that maps (…, in) to (…, out).
        x: (…, in).
        factors: current parts.
        dropout: on the input of the low-rank term; None where inactive.
    """
    assert factors.q is not None
    device = x.device.type
    autocast = torch.is_autocast_enabled(device)
    if dropout is not None:
        return added(base(x), dropout(x), factors)
    if not is_bare(base) or factors.q.dtype != _precision(base, device, autocast) or _trained(base):
        return added(base(x), x, factors)
    if not autocast:
        return _fused(x, base.weight, base.bias, factors)
    dtype = factors.q.dtype
    bias = None if base.bias is None else base.bias.to(dtype)
    with torch.autocast(device, enabled=False):
        return _fused(x.to(dtype), base.weight.to(dtype), bias, factors)


def is_bare(base: nn.Module) -> TypeGuard[nn.Linear]:
    """A linear map that may be computed without calling the module: nothing listens to its calls."""
    listens = base._forward_hooks or base._forward_pre_hooks
    return type(base) is nn.Linear and not listens and "forward" not in base.__dict__


def _trained(base: nn.Linear) -> bool:
    """Whether the layer itself learns (PEFT's `bias` option): the fused path has gradients for the factors alone."""
    return base.weight.requires_grad or (base.bias is not None and base.bias.requires_grad)


def _precision(base: nn.Linear, device: str, autocast: bool) -> torch.dtype:
    """What the base multiplies in."""
    return torch.get_autocast_dtype(device) if autocast else base.weight.dtype


def _fused(x: Tensor, weight: Tensor, bias: Tensor | None, factors: Factors) -> Tensor:
    if torch.is_grad_enabled():
        apply = cast(Any, LowRankLinear).apply
        return cast(Tensor, apply(x, weight, bias, factors.q, factors.s))
    rows = x.reshape(-1, x.shape[-1])
    out = accumulate(rows, weight, bias, cast(Tensor, factors.q), factors.s)[0]
    return out.view(*x.shape[:-1], out.shape[1])


def added(result: Tensor, x: Tensor, factors: Factors) -> Tensor:
    """The low-rank term in the parts' precision, added to the base's output and rounded once, as PEFT does."""
    assert factors.q is not None
    low_rank = x.to(factors.q.dtype) @ factors.q.t() @ factors.s
    return (result + low_rank).to(result.dtype)
