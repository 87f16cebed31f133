"""An evaluation whose rows are spread over the processes: the texts and numbers of one process, in its order.

Whole batches are dealt out, longest first. So every batch is the one that a single process would make, and its texts
and losses are the same.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet
from spectune.evaluation.constrained import LabelOutputs
from spectune.evaluation.decoding import batches_by_length
from spectune.evaluation.evaluate import Evaluation, Outputs, evaluate_examples, score_outputs, write_outputs
from spectune.evaluation.generation import GenerationSettings
from spectune.evaluation.label_trie import LabelTrie
from spectune.training.lockstep import Lockstep
from spectune.training.parallel import Processes


def evaluate_spread(
    processes: Processes,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    tokenized: TokenizedSet,
    *,
    settings: GenerationSettings,
    metric_names: Sequence[str],
    labels: Sequence[str] | None,
    task: str,
    trie: LabelTrie | None,
    lockstep: Lockstep | None = None,
) -> Evaluation:
    """`evaluate_examples` by all processes; metrics are computed once, and every process gets the same evaluation.

    Args:
        lockstep: where the base's layers are shared out among the processes.

    Raises:
        Interrupted: a signal asked one of several processes to stop.
    """
    if not processes.several:
        return evaluate_examples(
            model,
            tokenizer,
            examples,
            tokenized,
            settings=settings,
            metric_names=metric_names,
            labels=labels,
            task=task,
            trie=trie,
        )
    started = time.monotonic()
    lengths = [len(ids) for ids in tokenized.input_ids]
    rows = rows_of_rank(lengths, settings.batch_size, processes.rank, processes.size)
    own = replace(
        tokenized,
        input_ids=[tokenized.input_ids[row] for row in rows],
        labels=[tokenized.labels[row] for row in rows],
    )
    write = partial(write_outputs, model, tokenizer, own, settings=settings, with_loss=True, trie=trie)
    if lockstep is None:
        written = processes.together(partial(write, on_batch=processes.stop_between_batches) if rows else _nothing)
    else:  # gathering goes on inside, so that a failure ends the run
        with lockstep.evaluation():
            written = write(on_batch=None) if rows else None
    shares = [(places, found) for places, found in processes.gather((rows, written)) if found is not None]
    return processes.first(
        lambda: score_outputs(examples, in_order(shares, len(examples)), metric_names, labels, task, started)
    )


def rows_of_rank(lengths: Sequence[int], batch_size: int, rank: int, world_size: int) -> list[int]:
    """Row numbers of a process, rising: every `world_size`-th batch of those that one process would make."""
    return sorted(row for batch in batches_by_length(lengths, batch_size)[rank::world_size] for row in batch)


def in_order(shares: Sequence[tuple[Sequence[int], Outputs]], rows: int) -> Outputs:
    """One set of outputs out of the shares of all processes, each with its row numbers."""
    predictions = [""] * rows
    losses: list[tuple[float, float]] = []
    for places, found in shares:
        for row, text in zip(places, found.predictions, strict=True):
            predictions[row] = text
        losses += found.losses or []
    return Outputs(predictions, losses, _labels_in_order(shares, rows))


def _labels_in_order(shares: Sequence[tuple[Sequence[int], Outputs]], rows: int) -> LabelOutputs | None:
    parts = [(places, found.constrained) for places, found in shares if found.constrained is not None]
    if not parts:
        return None
    words = parts[0][1].words
    predictions = [""] * rows
    probabilities = torch.empty(rows, len(words), dtype=torch.float64)
    for places, part in parts:
        probabilities[list(places)] = part.probabilities
        for row, label in zip(places, part.predictions, strict=True):
            predictions[row] = label
    return LabelOutputs(words, predictions, probabilities, max(part.seconds for _, part in parts))


def _nothing() -> Any:
    """Of a process without rows."""
    return None
