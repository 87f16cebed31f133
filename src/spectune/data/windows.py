"""Which rows each process reads in each optimizer step: plain lists, no tensors."""

from __future__ import annotations

from collections.abc import Sequence

Batches = list[list[int]]


def cut_windows(batches: Sequence[list[int]], *, accumulation_steps: int, world_size: int) -> list[Batches]:
    """An epoch's batches cut into windows, one for each optimizer step.

    A window has `accumulation_steps · world_size` batches, the last one of the epoch perhaps fewer: then its largest
    batches are halved until every process gets equally many, so that each row is read exactly once. Only when all its
    batches are down to one row is it filled up with batches without rows (`[]`).
    """
    size = accumulation_steps * world_size
    windows = [list(batches[start : start + size]) for start in range(0, len(batches), size)]
    if windows:
        windows[-1] = _divisible(windows[-1], world_size)
    return windows


def windows_per_epoch(rows: int, *, batch_size: int, accumulation_steps: int = 1, world_size: int = 1) -> int:
    """Optimizer steps of one epoch over `rows` examples; `batch_size` is that of one process."""
    batches = -(-rows // batch_size)
    return -(-batches // (accumulation_steps * world_size))


def batches_of_rank(window: Sequence[list[int]], rank: int, world_size: int) -> Batches:
    """Batch j of a window belongs to process j modulo `world_size`."""
    return [list(batch) for batch in window[rank::world_size]]


def balanced(window: Batches, tokens: Sequence[int], world_size: int) -> Batches:
    """The batches in another order, so that the processes get near-equally many tokens (`batches_of_rank`).

    Longest first, dealt out there and back. With one batch for each process there is nothing to choose: their order
    stays, which is random, so that no process always gets the longest.

    Args:
        tokens: of each batch, with its padding.
    """
    if len(window) <= world_size:
        return window
    order = sorted(range(len(window)), key=lambda index: -tokens[index])
    rounds = [order[start : start + world_size] for start in range(0, len(order), world_size)]
    return [window[index] for number, one in enumerate(rounds) for index in (one[::-1] if number % 2 else one)]


def _divisible(window: Batches, world_size: int) -> Batches:
    while len(window) % world_size:
        largest = max(range(len(window)), key=lambda index: len(window[index]))
        batch = window[largest]
        if len(batch) < 2:
            return window + [[] for _ in range(-len(window) % world_size)]
        half = (len(batch) + 1) // 2
        window[largest : largest + 1] = [batch[:half], batch[half:]]
    return window
