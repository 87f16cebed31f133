"""Span corruption: hide spans of tokens behind sentinels and ask for them back.

Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
section 3.1.4. Both sides have a length that depends on the input's length alone, so a batch needs no padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def span_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """How many of ``length`` tokens are hidden, and in how many spans. At least one of each; ``length`` >= 2."""
    hidden = min(max(round(length * density), 1), length - 1)
    spans = min(max(round(hidden / mean_span), 1), hidden, length - hidden + 1)
    return hidden, spans


def span_mask(length: int, density: float, mean_span: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """A mask (length,), true where a token is hidden; every arrangement of separate spans is equally likely."""
    hidden, spans = span_counts(length, density, mean_span)
    inside = _composition(hidden, spans, generator)
    # Spans must not touch, but the text may begin or end with one: the outer gaps may be empty, the inner ones not.
    outside = _composition(length - hidden + 2, spans + 1, generator)
    outside[0] -= 1
    outside[-1] -= 1
    runs = np.empty(2 * spans + 1, dtype=np.int64)
    runs[0::2] = outside
    runs[1::2] = inside
    return np.repeat(np.arange(2 * spans + 1) % 2 == 1, runs)


def corrupt(tokens: Tokens, mask: NDArray[np.bool_], sentinels: Sequence[int], eos: int) -> tuple[Tokens, Tokens]:
    """The source (visible tokens, a sentinel for each span, eos) and the target (sentinel, span, …, eos)."""
    starts = mask & ~np.concatenate(([False], mask[:-1]))
    span_starts = np.flatnonzero(starts)
    marks = np.asarray(sentinels, dtype=np.int64)[: len(span_starts)]
    if len(marks) < len(span_starts):
        raise ValueError(f"{len(span_starts)} spans, but only {len(marks)} sentinels")
    marked = tokens.astype(np.int64)
    marked[span_starts] = marks
    source = marked[~mask | starts]
    hidden = np.flatnonzero(mask)
    target = np.insert(tokens[hidden].astype(np.int64), np.searchsorted(hidden, span_starts), marks)
    return np.append(source, eos), np.append(target, eos)


def _composition(total: int, parts: int, generator: np.random.Generator) -> Tokens:
    """``parts`` positive integers that sum to ``total``, uniformly drawn."""
    cuts = np.sort(generator.choice(total - 1, size=parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], cuts, [total]))).astype(np.int64)
