"""The fused map against plain matrix products."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from spectune.adapter.linear import Factors, LowRankLinear, adapted_linear


def fused(x: Tensor, weight: Tensor, bias: Tensor | None, q: Tensor, s: Tensor) -> Tensor:
    apply = cast(Any, LowRankLinear).apply
    return cast(Tensor, apply(x, weight, bias, q, s))


def inputs(rank: int, bias: bool) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, 5), (4, 5), (4,), (rank, 5), (rank, 4)
    x, weight, b, q, s = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return x.requires_grad_(), weight, b if bias else cast(Any, None), q.requires_grad_(), s.requires_grad_()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_value_and_gradients(rank: int, bias: bool) -> None:
    x, weight, b, q, s = inputs(rank, bias)
    plain = nn.functional.linear(x, weight, b) + x @ q.t() @ s
    torch.testing.assert_close(fused(x, weight, b, q, s), plain)
    upstream = torch.randn(plain.shape, dtype=plain.dtype)
    expected = torch.autograd.grad(plain, (x, q, s), upstream)
    torch.testing.assert_close(torch.autograd.grad(fused(x, weight, b, q, s), (x, q, s), upstream), expected)


def test_no_input_gradient_where_none_is_asked_for() -> None:
    x, weight, b, q, s = inputs(2, True)
    fused(x.detach(), weight, b, q, s).sum().backward()
    assert x.grad is None
    assert q.grad is not None


@pytest.mark.parametrize("change", [lambda x: x.transpose(0, 1), lambda x: x[:, ::2], lambda x: x.expand(2, 3, 5)])
def test_inputs_and_gradients_that_are_not_contiguous(change: Any) -> None:
    x, weight, b, q, s = inputs(2, True)
    strided = change(x)
    out = fused(strided, weight, b, q, s)
    plain = nn.functional.linear(strided, weight, b) + strided @ q.t() @ s
    torch.testing.assert_close(out, plain)
    upstream = torch.randn(out.shape[::-1], dtype=out.dtype).permute(*reversed(range(out.dim())))
    torch.testing.assert_close(
        torch.autograd.grad(out, (x, q, s), upstream), torch.autograd.grad(plain, (x, q, s), upstream)
    )


def test_the_output_may_be_changed_in_place() -> None:
    x, weight, b, q, s = inputs(2, True)
    expected = torch.autograd.grad((fused(x, weight, b, q, s) / 3).square().sum(), (x, q, s))
    changed = fused(x, weight, b, q, s)
    changed /= 3
    torch.testing.assert_close(torch.autograd.grad(changed.square().sum(), (x, q, s)), expected)


def test_a_base_that_is_no_plain_linear() -> None:
    """Quantised and foreign classes compute their own product."""

    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    x, _, _, q, s = (None if t is None else t.detach().float() for t in inputs(2, True))
    assert x is not None
    assert q is not None
    assert s is not None
    base = Doubled(5, 4)
    factors = Factors(None)
    factors.q, factors.s = q, s
    torch.testing.assert_close(adapted_linear(base, x, factors, None), base(x) + x @ q.t() @ s)
