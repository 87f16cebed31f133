"""Batches of rows of near-equal length."""

from __future__ import annotations

import random
from collections.abc import Sequence

# Rows are sorted inside a mega-batch only: enough of them for little padding, few enough for a new mixture each epoch.
_MEGA_BATCHES = 50
_MIN_MEGA_BATCHES_PER_EPOCH = 4


def bucketed_batches(
    source_lengths: Sequence[int],
    target_lengths: Sequence[int],
    *,
    batch_size: int,
    seed: int,
    epoch: int | str,
    source_block: int = 1,
) -> list[list[int]]:
    """The batches of one epoch, as row indices: every row once, near-equal lengths together, batches in random order.

    A pure function of its arguments, the same on every platform: the generator is `random.Random(f"{seed}/{epoch}")`,
    seeded by SHA-512 of that text; an epoch that is read in parts names the part, too (`"2/7"`). Rows are shuffled, cut
    into mega-batches of at most 50 batches (at least four of them in an epoch, data permitting), sorted inside those by
    source length, then target length (both in tokens), cut into batches, and the batches shuffled. At most one batch is
    smaller than `batch_size`. Source lengths that fill equally many blocks of `source_block` tokens count as equal.
    """
    if len(source_lengths) != len(target_lengths):
        raise ValueError(f"{len(source_lengths)} source lengths against {len(target_lengths)} target lengths")
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is below 1")
    rows, blocks = len(source_lengths), [-(-length // source_block) for length in source_lengths]
    generator = random.Random(f"{seed}/{epoch}")
    order = list(range(rows))
    generator.shuffle(order)
    per_mega = min(_MEGA_BATCHES, max(1, rows // (batch_size * _MIN_MEGA_BATCHES_PER_EPOCH)))
    mega = batch_size * per_mega
    batches: list[list[int]] = []
    for start in range(0, rows, mega):
        part = sorted(order[start : start + mega], key=lambda row: (blocks[row], target_lengths[row]))
        batches.extend(part[first : first + batch_size] for first in range(0, len(part), batch_size))
    generator.shuffle(batches)
    return batches
