"""The attention of a training step: the same function by other products where they are faster."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from spectune.training import attention
from spectune.training.attention import LONGEST, AttentionOfHeads, scaled_dot_product_attention
from spectune.training.dropout import noise

ROWS, HEADS, WIDTH = 2, 3, 16
LEAST = torch.finfo(torch.float32).min
torchs = F.scaled_dot_product_attention


def sides(asking: int, asked: int, dtype: torch.dtype, values: int = WIDTH) -> list[Tensor]:
    """q, k and v as models pass them: (batch, heads, tokens, width), held token by token."""
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(ROWS, tokens, HEADS, width, generator=generator).to(dtype).transpose(1, 2).requires_grad_()
        for tokens, width in ((asking, WIDTH), (asked, WIDTH), (asked, values))
    ]


def with_gradients(attend: Any, given: list[Tensor], **options: Any) -> list[Tensor]:
    out = attend(*given, **options)
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), given)]


def hidden(asking: int, asked: int, *, whole_row: bool = False) -> Tensor:
    """False where nothing is seen: the last two tokens of the second row of the batch, or all of them."""
    mask = torch.ones(ROWS, 1, asking, asked, dtype=torch.bool)
    mask[1, :, :, 0 if whole_row else -2 :] = False
    return mask


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "bool mask": {"attn_mask": hidden(20, 24)},
    "whole row hidden": {"attn_mask": hidden(20, 24, whole_row=True)},
    "added mask": {"attn_mask": torch.linspace(-3, 3, 20 * 24).view(1, 1, 20, 24)},
    "row hidden by the least number": {"attn_mask": torch.zeros(20, 24).index_fill(0, torch.tensor([3]), LEAST)},
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("values", [WIDTH, 8])
def test_it_is_torchs_function(name: str, values: int) -> None:
    """The same products, from float32 inputs, where rounding hides nothing."""
    options = dict(OPTIONS[name])
    given = sides(20, 24, torch.float32, values)

    def ours(*qkv: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, scale: float = 0.25) -> Tensor:
        mask = torch.ones(20, 24, dtype=torch.bool).tril() if is_causal else attn_mask
        return cast(Tensor, cast(Any, AttentionOfHeads).apply(*qkv, mask, None, scale))

    with sdpa_kernel(SDPBackend.MATH):
        expected = with_gradients(torchs, given, **options)
    torch.testing.assert_close(with_gradients(ours, given, **options), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIONS)
def test_in_bfloat16_it_is_as_near_as_torchs(name: str) -> None:
    """As its products; its fused attention has wrong gradients for a row that the least number hides."""
    given = sides(20, 24, torch.bfloat16)
    options = dict(OPTIONS[name])
    with sdpa_kernel(SDPBackend.MATH):
        exact = with_gradients(torchs, [side.detach().float().requires_grad_() for side in given], **options)
        plain = with_gradients(torchs, given, **options)
    found = with_gradients(scaled_dot_product_attention, given, **options)
    for one, other, reference in zip(found, plain, exact, strict=True):
        assert one.dtype is torch.bfloat16
        size = reference.norm()
        assert float((one.float() - reference).norm() / size) < 1.5 * float((other.float() - reference).norm() / size)


@pytest.mark.parametrize("shape", [(ROWS, HEADS, 20, 24), (1, HEADS, 20, 24), (1, 1, 1, 24), (20, 24)])
def test_a_mask_that_is_added_has_its_gradient(shape: tuple[int, ...]) -> None:
    """T5's bias: transformers asks for it where layers are computed again."""
    given = sides(20, 24, torch.float32)
    mask = torch.linspace(-1, 1, 24).expand(shape).clone().requires_grad_()

    def ours(*tensors: Tensor) -> Tensor:
        return cast(Tensor, cast(Any, AttentionOfHeads).apply(*tensors, None, WIDTH**-0.5))

    with sdpa_kernel(SDPBackend.MATH):
        expected = with_gradients(torchs, [*given, mask])
    torch.testing.assert_close(with_gradients(ours, [*given, mask]), expected, rtol=1e-5, atol=1e-6)


def test_gradients_under_dropout_are_those_of_the_same_drop() -> None:
    """Against the formula in float64, with the numbers that were drawn."""
    given = sides(20, 24, torch.float32)
    torch.manual_seed(0)
    out = with_gradients(scaled_dot_product_attention, given, dropout_p=0.4)
    torch.manual_seed(0)
    kept = noise(torch.Size([ROWS, HEADS, 20, 24]), 0.4, torch.float32, torch.device("cpu")).double()

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (torch.softmax(q @ k.transpose(2, 3) * WIDTH**-0.5, -1) * kept) @ v

    expected = with_gradients(plain, [side.detach().double().requires_grad_() for side in given])
    torch.testing.assert_close([one.double() for one in out], expected, rtol=1e-4, atol=1e-5)


def test_autocast_multiplies_in_its_precision() -> None:
    given = q, k, v = sides(20, 24, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = scaled_dot_product_attention(q, k, v)
        within = torch.autograd.grad(out.sum(), given, retain_graph=True)
    assert out.dtype is torch.bfloat16
    assert type(out.grad_fn).__name__ == "AttentionOfHeadsBackward"
    gradients = torch.autograd.grad(out.sum(), given)
    assert all(gradient.dtype is torch.float32 for gradient in gradients)
    torch.testing.assert_close(within, gradients, rtol=0, atol=0)


def test_dropped_chances_are_scaled_and_have_no_gradient() -> None:
    """v is the identity, so the output is the dropped probabilities themselves."""
    torch.manual_seed(0)
    q, k, _ = sides(20, 24, torch.bfloat16)
    v = torch.eye(24).to(torch.bfloat16).expand(ROWS, HEADS, 24, 24).clone().requires_grad_()
    whole, dropped = (scaled_dot_product_attention(q, k, v, dropout_p=p) for p in (0.0, 0.5))
    kept = dropped != 0
    assert 0.45 < float(kept.double().mean()) < 0.55
    torch.testing.assert_close(dropped[kept], 2 * whole[kept], rtol=0.02, atol=0)
    torch.manual_seed(1)
    out = scaled_dot_product_attention(q, k, v, dropout_p=0.5)
    (of_values,) = torch.autograd.grad(out.sum(), v)
    torch.testing.assert_close(of_values.sum((2, 3)), 24 * out.detach().sum((2, 3)), rtol=0.02, atol=0.1)


@pytest.mark.parametrize(
    ("asking", "asked", "dtype", "dropout", "ours"),
    [
        (128, 128, torch.bfloat16, 0.0, True),
        (129, 128, torch.bfloat16, 0.0, False),
        (20, LONGEST, torch.bfloat16, 0.0, True),
        (20, LONGEST + 1, torch.bfloat16, 0.0, False),
        (2, 27, torch.bfloat16, 0.0, False),
        (27, 27, torch.float32, 0.0, False),
        (2, 27, torch.bfloat16, 0.1, False),
        (300, 300, torch.bfloat16, 0.1, True),
        (27, 27, torch.float32, 0.1, True),
        (27, 27, torch.float16, 0.1, False),
    ],
)
def test_which_are_computed_by_it(asking: int, asked: int, dtype: torch.dtype, dropout: float, ours: bool) -> None:
    q, k, v = sides(asking, asked, dtype)
    out = scaled_dot_product_attention(q, k, v, dropout_p=dropout)
    assert (type(out.grad_fn).__name__ == "AttentionOfHeadsBackward") is ours


def test_the_rest_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer heads of keys, three dimensions, a mask beside `is_causal`; and what it refuses."""
    asked: list[dict[str, Any]] = []

    def seen(*given: Any, **options: Any) -> Tensor:
        asked.append(options)
        return torchs(*given, **options)

    monkeypatch.setattr(attention, "_torchs", seen)
    q, k, v = sides(20, 24, torch.bfloat16)
    scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
    scaled_dot_product_attention(q[0], k[0], v[0], scale=0.5)
    scaled_dot_product_attention(q, k, v, torch.ones(20, 24, dtype=torch.bool), is_causal=True)
    scaled_dot_product_attention(q, k, v[:1])
    assert [(one["enable_gqa"], one["scale"]) for one in asked] == [
        (True, None),
        (False, 0.5),
        (False, None),
        (False, None),
    ]
    for wrong in ({"dropout_p": 1.5}, {"dropout_p": -0.5}, {"attn_mask": torch.ones(20, 24, dtype=torch.int64)}):
        with pytest.raises(RuntimeError):
            scaled_dot_product_attention(q, k, v, **cast(Any, wrong))
