"""The analytic penalty and its gradient, against autograd on the formula."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor

from spectune.adapter.orthogonality import Penalty, add_gradient, frames


def norms_and_gradient(rows: Tensor, sizes: list[int], live: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Sum and gradient, by the way that adds to a gradient that is there already; by Penalty too, to be the same."""
    layout = frames(sizes, rows.device, rows.dtype, live)
    there = torch.arange(rows.numel(), dtype=rows.dtype).view_as(rows)
    grad = there.clone()
    total = add_gradient(rows, layout, 0.5, grad).sum()
    leaf = rows.clone().requires_grad_()
    penalty = cast(Any, Penalty).apply(0.5, [layout], leaf)
    torch.testing.assert_close(penalty.detach(), 0.5 * total)
    torch.testing.assert_close(torch.autograd.grad(penalty, leaf)[0], grad - there)
    return total, (grad - there) / 0.5


def by_autograd(rows: Tensor, sizes: list[int], live: Tensor | None) -> tuple[Tensor, Tensor]:
    leaf = rows.clone().requires_grad_()
    masks = (torch.ones(len(rows), dtype=torch.bool) if live is None else live).split(sizes)
    parts = [part[mask] for part, mask in zip(leaf.split(sizes), masks, strict=True)]
    total = torch.stack(
        [torch.linalg.norm(part @ part.T - torch.eye(len(part), dtype=rows.dtype)) for part in parts]
    ).sum()
    return total.detach(), torch.autograd.grad(total, leaf)[0]


@pytest.mark.parametrize(
    ("sizes", "live"),
    [
        ([3, 3], None),
        ([2, 4, 1], None),
        ([3, 3], [1, 0, 1, 1, 1, 0]),
        ([2, 4], [1, 1, 0, 0, 1, 0]),
        ([4], [0, 0, 1, 0]),
    ],
)
def test_value_and_gradient(sizes: list[int], live: list[int] | None) -> None:
    rows = torch.randn(sum(sizes), 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = None if live is None else torch.tensor(live, dtype=torch.bool)
    total, gradient = norms_and_gradient(rows, sizes, mask)
    expected_total, expected = by_autograd(rows, sizes, mask)
    torch.testing.assert_close(total, expected_total)
    torch.testing.assert_close(gradient, expected)


def test_orthonormal_rows_have_no_penalty_and_no_gradient() -> None:
    rows = torch.eye(6)[:4]
    total, gradient = norms_and_gradient(rows, [2, 2])
    assert float(total) == 0.0
    assert not gradient.any()


@pytest.mark.parametrize(("width", "rank"), [(32, 4), (256, 16), (512, 64)])
def test_what_rounding_leaves_of_orthonormal_rows_has_no_gradient(width: int, rank: int) -> None:
    """The gradient has one length wherever the norm is not 0; a deviation that is more than rounding has it."""
    rows = torch.linalg.qr(torch.randn(width, 2 * rank))[0].t().contiguous()
    layout = frames([rank, rank], rows.device, rows.dtype)
    assert float((rows @ rows.t() - torch.eye(2 * rank)).norm()) > 0.0
    for factor, length in ((1.0, 0.0), (1.001, 2.0)):
        gradient = torch.zeros_like(rows)
        add_gradient(factor * rows, layout, 1.0, gradient)
        assert float(gradient[:rank].norm()) == pytest.approx(length, rel=0.01)


@pytest.mark.parametrize("sizes", [[0, 0], [0, 3], [3, 0]])
def test_matrices_without_triplets(sizes: list[int]) -> None:
    rows = torch.randn(sum(sizes), 5)
    total, gradient = norms_and_gradient(rows, sizes)
    assert gradient.shape == rows.shape
    assert torch.isfinite(total)


@pytest.mark.parametrize("graph", [True, False])
def test_differentiable_once(graph: bool) -> None:
    """With an incoming gradient that is constant too, as the 1 that a sum of losses hands on."""
    rows = torch.randn(4, 5, requires_grad=True)
    layout = frames([2, 2], rows.device, rows.dtype)
    weight = torch.tensor(3.0, requires_grad=graph)
    penalty = cast(Any, Penalty).apply(0.5, [layout], rows)
    (gradient,) = torch.autograd.grad(weight * penalty, rows, create_graph=True)
    torch.testing.assert_close(gradient.detach(), 1.5 * by_autograd(rows.detach(), [2, 2], None)[1])
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
