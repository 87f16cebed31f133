"""Attention of a training step on a CPU, by products of all heads at once.

torch's fused attention multiplies head by head. Backward in bfloat16 each of these small products goes through oneDNN,
which takes longer to look its kernel up than to run it: 4.3 ms for 8 rows of 27 tokens and 12 heads where the products
of all heads take 1.2, in float32 between one conversion at either end. Beyond some 200 tokens the fused one wins, and
holds no probabilities. With dropout torch has no fused one, and its products take its slow dropout, in float32 as well
(`benchmarks/kernels.py`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from spectune.training.dropout import noise

_torchs = F.scaled_dot_product_attention
LONGEST, MOST_PAIRS = 256, 128 * 128
"""Tokens on either side, and pairs of them, up to which the products of all heads are taken without dropout."""
_WITHOUT_ONEDNN = 16**3
"""Multiplications up to which torch does not ask oneDNN for a product of one head."""


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention`; torch's own where that is faster or ours cannot.

    Args:
        query: (batch, heads, t, d).
        key: (batch, heads, s, d).
        value: (batch, heads, s, e).
        attn_mask: broadcastable to (batch, heads, t, s); added to the scores, or False where nothing is seen.
        dropout_p: chance of a probability to become 0.
        is_causal: token i sees tokens up to i; not together with a mask.
        scale: of the scores; 1 / √d if None.
        enable_gqa: fewer heads of keys than of queries; left to torch.
    """
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    usual = not enable_gqa and not (is_causal and attn_mask is not None) and _can(query, key, value, attn_mask)
    if not usual or not _faster(query, key, dropout_p, dtype):
        return _torchs(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if is_causal:
        attn_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    chances = torch.Size([query.shape[0] * query.shape[1], query.shape[2], key.shape[2]])
    kept = noise(chances, dropout_p, torch.float32, query.device) if dropout_p > 0 else None
    scale = query.shape[3] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        sides = [side.to(dtype) for side in (query, key, value)]
        return cast(Tensor, cast(Any, AttentionOfHeads).apply(*sides, attn_mask, kept, scale))


def _can(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether ours is made for such inputs.

    What needs a gradient does not count: a re-entrant checkpoint runs first without gradients, T5's bias among them,
    and must drop the same both times.
    """
    if torch.compiler.is_compiling() or query.dim() != 4 or query.device.type != "cpu":
        return False
    if mask is not None and (mask.dim() < 2 or not (mask.dtype is torch.bool or mask.is_floating_point())):
        return False
    alike = torch.is_autocast_enabled("cpu") or query.dtype == key.dtype == value.dtype
    return alike and query.shape[:2] == key.shape[:2] == value.shape[:2]


def _faster(query: Tensor, key: Tensor, dropout_p: float, dtype: torch.dtype) -> bool:
    asking, asked, width = query.shape[2], key.shape[2], query.shape[3]
    if asking * asked * width <= _WITHOUT_ONEDNN or not 0 <= dropout_p < 1:
        return False
    if dropout_p > 0:
        return dtype in (torch.bfloat16, torch.float32)
    return dtype is torch.bfloat16 and asking * asked <= MOST_PAIRS and max(asking, asked) <= LONGEST


class AttentionOfHeads(torch.autograd.Function):
    """softmax(scale · q kᵀ + mask) v, multiplied in float32, the results in the inputs' precision.

    Shapes: q (batch, heads, t, d), k (batch, heads, s, d), v (batch, heads, s, e); mask None or broadcastable to
    (batch, heads, t, s); kept None or (batch · heads, t, s), by which the probabilities are multiplied. A row that sees
    nothing is 0, as torch has it. Differentiable once, in q, k, v and a mask that is added.
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, kept: Tensor | None, scale: float
    ) -> Tensor:
        queries, keys, values = _by_head(q).mul_(scale), _by_head(k), _by_head(v)
        scores = queries.bmm(keys.transpose(1, 2))
        _hide(scores.view(*q.shape[:3], k.shape[2]), mask)
        chances = torch.ops.aten._safe_softmax.default(scores, -1)
        ctx.save_for_backward(queries, keys, values, chances, kept)
        ctx.scale, ctx.shapes, ctx.dtype = scale, (q.shape, k.shape, v.shape), q.dtype
        ctx.mask = None if mask is None else (mask.shape, mask.dtype)
        return _by_token(_dropped(chances, kept).bmm(values), torch.Size([*q.shape[:3], v.shape[3]]), q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        with torch.autocast("cpu", enabled=False):
            of_sides, of_mask = _gradients(ctx, _by_head(grad), *ctx.saved_tensors)
        return *of_sides, of_mask, None, None


def _gradients(
    ctx: Any, grad: Tensor, queries: Tensor, keys: Tensor, values: Tensor, chances: Tensor, kept: Tensor | None
) -> tuple[list[Tensor], Tensor | None]:
    """Of q, k and v, and of the mask where it is asked for; all inputs (batch · heads, …) in float32."""
    of_values = _dropped(chances, kept).transpose(1, 2).bmm(grad)
    of_chances = _dropped(grad.bmm(values.transpose(1, 2)), kept)
    of_scores = torch.ops.aten._softmax_backward_data.default(of_chances, chances, -1, torch.float32)
    of_queries, of_keys = of_scores.bmm(keys).mul_(ctx.scale), of_scores.transpose(1, 2).bmm(queries)
    sides = zip((of_queries, of_keys, of_values), ctx.shapes, strict=True)
    of_sides = [_by_token(side, shape, ctx.dtype) for side, shape in sides]
    if not ctx.needs_input_grad[3]:
        return of_sides, None
    (batch, heads, asking, _), (shape, dtype) = ctx.shapes[0], ctx.mask
    return of_sides, of_scores.view(batch, heads, asking, -1).sum_to_size(shape).to(dtype)


def _by_head(x: Tensor) -> Tensor:
    """(batch, heads, t, d) → (batch · heads, t, d) in float32, turned and converted in one pass."""
    return torch.empty(x.shape, dtype=torch.float32, device=x.device).copy_(x).flatten(0, 1)


def _by_token(x: Tensor, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """(batch · heads, t, d) → (batch, heads, t, d), held as (batch, t, heads, d), which models go on with."""
    batch, heads, tokens, width = shape
    held = torch.empty(batch, tokens, heads, width, dtype=dtype, device=x.device)
    return held.transpose(1, 2).copy_(x.view(shape))


def _hide(scores: Tensor, mask: Tensor | None) -> None:
    if mask is None:
        return
    if mask.dtype is torch.bool:
        scores.masked_fill_(~mask, float("-inf"))
    else:
        scores.add_(mask)


def _dropped(chances: Tensor, kept: Tensor | None) -> Tensor:
    return chances if kept is None else chances * kept
