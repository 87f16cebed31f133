"""Span corruption loses nothing, hides the right share, and every arrangement can occur."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectune.starter.spans import Tokens, corrupt, span_counts, span_mask

EOS = 1
SENTINELS = range(1000, 1100)


def restore(source: Tokens, target: Tokens) -> Tokens:
    """The text again: each sentinel of the source replaced by what follows it in the target."""
    hidden: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in SENTINELS:
            spans = hidden.setdefault(int(token), [])
        else:
            spans.append(int(token))
    text: list[int] = []
    for token in source[:-1]:
        text.extend(hidden[int(token)] if token in SENTINELS else [int(token)])
    return np.asarray(text, dtype=np.int64)


@given(length=st.integers(2, 200), density=st.floats(0.05, 0.5), mean=st.floats(1.0, 8.0), seed=st.integers(0, 2**32))
def test_the_source_and_the_target_together_are_the_text(length: int, density: float, mean: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens = generator.integers(2, 1000, length)
    hidden, spans = span_counts(length, density, mean)
    source, target = corrupt(tokens, span_mask(length, density, mean, generator), SENTINELS, EOS)
    assert restore(source, target).tolist() == tokens.tolist()
    assert (len(source), len(target)) == (length - hidden + spans + 1, hidden + spans + 1)
    assert source[-1] == target[-1] == EOS


def test_the_same_seed_gives_the_same_mask() -> None:
    first, second = (span_mask(128, 0.15, 3.0, np.random.default_rng(4)) for _ in range(2))
    assert first.tolist() == second.tolist()


def test_each_place_is_hidden_about_as_often_as_any_other() -> None:
    generator = np.random.default_rng(0)
    share = np.mean([span_mask(128, 0.15, 3.0, generator) for _ in range(4000)], axis=0)
    # 19 of 128 are hidden. The very ends are hidden less often: a span cannot begin before the text.
    assert share.mean() == pytest.approx(19 / 128)
    assert share[4:-4].min() > 0.12
    assert share.max() < 0.18


def test_too_few_sentinels_are_refused() -> None:
    mask = np.array([True, False, True, False])
    with pytest.raises(ValueError, match="2 spans, but only 1 sentinels"):
        corrupt(np.arange(4), mask, [9], EOS)
