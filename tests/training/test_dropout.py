"""Dropout from sixteen random bits a number: the distribution of torch's, and its interface."""

from __future__ import annotations

from itertools import pairwise
from math import sqrt

import pytest
import torch
from torch.nn import functional as F

from spectune.training.dropout import dropout

MANY = 400_000


def dropped(p: float, count: int = MANY) -> torch.Tensor:
    """1 where a number was dropped."""
    return (dropout(torch.ones(count), p) == 0).double()


@pytest.mark.parametrize("p", [0.001, 0.1, 0.3, 0.5, 0.9])
def test_as_many_are_dropped_as_p_says(p: float) -> None:
    torch.manual_seed(0)
    assert abs(float(dropped(p).mean()) - p) < 5 * sqrt(p * (1 - p) / MANY)


@pytest.mark.parametrize("distance", [1, 2, 3, 4, 7])
def test_numbers_of_one_draw_are_dropped_independently(distance: int) -> None:
    torch.manual_seed(0)
    p = 0.3
    hidden = dropped(p)
    both = float((hidden[:-distance] * hidden[distance:]).mean())
    assert abs(both - p * p) < 5 * sqrt(p * p * (1 - p * p) / MANY)


def test_rows_drawn_one_after_another_differ() -> None:
    torch.manual_seed(0)
    for one, next_one in pairwise(dropped(0.5, 1000) for _ in range(4)):
        assert 0.4 < float((one == next_one).double().mean()) < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (3, 5), (2, 3, 7)])
def test_what_is_kept_is_scaled_as_torch_scales_it(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    given = torch.rand(shape).to(dtype) + 1
    found = dropout(given, 0.25)
    expected = torch.where(found == 0, torch.zeros((), dtype=dtype), given * torch.ones((), dtype=dtype).div_(0.75))
    assert found.dtype is dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_gradient_is_dropped_and_scaled_alike() -> None:
    torch.manual_seed(0)
    given = torch.ones(1000, requires_grad=True)
    found = dropout(given, 0.2)
    (gradient,) = torch.autograd.grad(found.sum(), given)
    torch.testing.assert_close(gradient, found.detach(), rtol=0, atol=0)
    assert 0 < int((gradient == 0).sum()) < 1000


def test_the_same_state_drops_the_same() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, second = dropped(0.5), dropped(0.5)
    torch.set_rng_state(state)
    assert torch.equal(dropped(0.5), first)
    assert torch.equal(dropped(0.5), second)


def test_chances_too_near_the_ends_are_the_ends() -> None:
    assert torch.equal(dropout(torch.ones(1000), 1e-7), torch.ones(1000))
    assert torch.equal(dropout(torch.ones(1000), 1 - 1e-7), torch.zeros(1000))
    assert torch.equal(dropout(torch.ones(10), 1.0), torch.zeros(10))


def test_nothing_is_drawn_where_nothing_is_dropped() -> None:
    given, state = torch.ones(10), torch.get_rng_state()
    assert torch.equal(dropout(given, 0.0), given)
    assert torch.equal(dropout(given, 0.5, training=False), given)
    assert torch.equal(torch.get_rng_state(), state)


def test_in_place_and_wrong_chances_are_torchs() -> None:
    given = torch.ones(1000)
    torch.manual_seed(0)
    assert dropout(given, 0.5, inplace=True) is given
    torch.manual_seed(0)
    assert torch.equal(given, F.dropout(torch.ones(1000), 0.5))
    with pytest.raises(ValueError, match="dropout probability"):
        dropout(given, 1.5)
