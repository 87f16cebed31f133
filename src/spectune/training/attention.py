"""Attention of a training step in bfloat16 on a CPU, by products of all heads at once.

torch's fused attention multiplies head by head. Backward in bfloat16 each of these small products goes through oneDNN,
which takes longer to look its kernel up than to run it: 4.0 ms for 8 rows of 27 tokens and 12 heads where the products
of all heads take 0.9, in float32 between one conversion at either end. torch has such products too, and converts and
copies three times as often. Beyond some 200 tokens the fused one wins, and holds no probabilities
(`benchmarks/kernels.py`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from spectune.training.dropout import noise

_torchs = F.scaled_dot_product_attention
LONGEST = 128
"""Tokens up to which the products of all heads are taken."""
_WITHOUT_ONEDNN = 16**3
"""Multiplications up to which torch does not ask oneDNN for a product of one head (`mkldnn_gemm_min_size`)."""


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
        is_causal: token i sees tokens up to i.
        scale: of the scores; 1 / √d if None.
        enable_gqa: fewer heads of keys than of queries; left to torch.
    """
    autocast = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if autocast else query.dtype
    if enable_gqa or dtype is not torch.bfloat16 or not _by_products(query, key, value, attn_mask):
        return _torchs(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
    if is_causal:
        attn_mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    kept = noise(torch.Size([*query.shape[:3], key.shape[2]]), dropout_p, torch.float32) if dropout_p > 0 else None
    scale = query.shape[3] ** -0.5 if scale is None else scale
    with torch.autocast("cpu", enabled=False):
        sides = [side.to(dtype) for side in (query, key, value)]
        return cast(Tensor, cast(Any, AttentionOfHeads).apply(*sides, attn_mask, kept, scale))


def _by_products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether this attention is one of those that the products of all heads are for.

    Gradients or not: a re-entrant checkpoint runs first without them, and must drop the same both times.
    """
    if torch.compiler.is_compiling() or query.dim() != 4:
        return False
    if query.device.type != "cpu" or len({query.dtype, key.dtype, value.dtype}) != 1:
        return False
    if query.shape[:2] != key.shape[:2] or (mask is not None and mask.requires_grad):
        return False
    asking, asked, width = query.shape[2], key.shape[2], query.shape[3]
    return asking * asked * width > _WITHOUT_ONEDNN and max(asking, asked) <= LONGEST


class AttentionOfHeads(torch.autograd.Function):
    """softmax(scale · q kᵀ + mask) v, multiplied in float32, the results in the inputs' precision.

    Shapes: q (batch, heads, t, d), k (batch, heads, s, d), v (batch, heads, s, e); mask None or broadcastable to
    (batch, heads, t, s); kept None or (batch, heads, t, s), by which the probabilities are multiplied. A row that sees
    nothing is 0, as torch has it. Differentiable once, in q, k and v.
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
        return _by_token(_dropped(chances, kept).bmm(values), torch.Size([*q.shape[:3], v.shape[3]]), q.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, chances, kept = ctx.saved_tensors
        by_head = _by_head(grad)
        of_values = _dropped(chances, kept).transpose(1, 2).bmm(by_head)
        of_chances = _dropped(by_head.bmm(values.transpose(1, 2)), kept)
        of_scores = torch.ops.aten._softmax_backward_data.default(of_chances, chances, -1, torch.float32)
        of_queries, of_keys = of_scores.bmm(keys).mul_(ctx.scale), of_scores.transpose(1, 2).bmm(queries)
        sides = zip((of_queries, of_keys, of_values), ctx.shapes, strict=True)
        return *(_by_token(side, shape, ctx.dtype) for side, shape in sides), None, None, None


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
    return chances if kept is None else chances * kept.view_as(chances)
