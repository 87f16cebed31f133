"""Survivors: an exact count in every case."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectune.adapter.allocation import survivors

NUMBERS = st.one_of(st.floats(width=32), st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]))


@pytest.mark.parametrize(
    ("scores", "count", "expected"),
    [
        ([3.0, 1.0, 2.0], 2, [0, 2]),
        ([1.0, 1.0, 1.0, 1.0], 2, [0, 1]),
        ([0.0, 0.0, 5.0], 2, [0, 2]),
        ([math.nan, 1.0, math.nan, 0.0], 2, [1, 3]),
        ([math.nan, math.nan, math.nan], 1, [0]),
        ([math.inf, 2.0, math.nan], 1, [0]),
        ([1.0, 2.0], 0, []),
        ([1.0, 2.0], 5, [0, 1]),
    ],
)
def test_who_survives(scores: list[float], count: int, expected: list[int]) -> None:
    assert survivors(torch.tensor(scores), count).nonzero().flatten().tolist() == expected


def test_candidates_come_first_whatever_their_score() -> None:
    scores = torch.tensor([9.0, math.nan, 8.0, 0.0])
    candidates = torch.tensor([False, True, False, True])
    assert survivors(scores, 2, candidates).tolist() == [False, True, False, True]
    assert survivors(scores, 3, candidates).tolist() == [True, True, False, True]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(NUMBERS, min_size=1, max_size=30), st.integers(0, 30))
def test_the_count_is_exact(scores: list[float], count: int) -> None:
    found = survivors(torch.tensor(scores), count)
    assert int(found.sum()) == min(count, len(scores))
    kept = [score for score, alive in zip(scores, found.tolist(), strict=True) if alive and not math.isnan(score)]
    cut = [score for score, alive in zip(scores, found.tolist(), strict=True) if not alive and not math.isnan(score)]
    assert not kept or not cut or min(kept) >= max(cut)
