"""The largest batches of a run, in tokens: its own rows where they can be tokenised, else what the settings allow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from spectune.config import RunConfig
from spectune.data.bucketing import bucketed_batches
from spectune.data.examples import Example
from spectune.data.prepare import PreparedData
from spectune.data.tokenization import tokenize_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MOST_CHARACTERS = 2_000_000  # that are tokenised, a few seconds' worth
_LONGEST = 500  # rows by source, and as many by target, that are tokenised of a larger table
_EPOCHS = 10  # whose batches are looked through
_MANY = 0.05  # of the rows: what is worth a line
_REMEDY = "data.max_source_length and max_target_length say how much is kept"
_PROOF_ROWS = 100  # training rows that are evaluated where there is no validation

Lengths = list[tuple[int, int]]
"""Tokens of source and target, row by row."""


@dataclass(frozen=True, order=True)
class BatchShape:
    """A padded batch."""

    rows: int
    source: int
    """Tokens of each source, padding included."""
    target: int
    """Likewise of each target."""

    def __str__(self) -> str:
        return f"{self.rows:,} × ({self.source:,} + {self.target:,})"


@dataclass(frozen=True)
class Largest:
    """The batches that memory is reckoned with."""

    training: tuple[BatchShape, ...]
    """The one with the longest sources, and the one with the longest targets."""
    evaluation: BatchShape
    new_tokens: int
    """The most that generation adds."""
    from_rows: bool
    """Whether they are the run's own; else every length is the most that the settings allow."""
    cut: tuple[str, ...] = ()
    """A line for each split of which many rows are longer than the settings allow."""
    beams: int = 1
    """Outputs that are searched for side by side, of each row: beams, or branches of the label trie."""


def largest_batches(
    config: RunConfig,
    data: PreparedData | None,
    tokenizer: PreTrainedTokenizerBase | None,
    epochs: float,
    source_block: int = 1,
) -> Largest:
    """The largest training and evaluation batches.

    Args:
        data: None where it was not read; of a stream, too, nobody knows the longest row.
        tokenizer: None where there is none.
        epochs: of the run.
        source_block: tokens that the model pads sources to a multiple of (`families.attention_block`).

    Raises:
        UserError: lengths that hold no text, rows without a token.
    """
    rows, section = config.train.per_device_train_batch_size, config.data
    full = BatchShape(rows, _padded(section.max_source_length, source_block), section.max_target_length)
    evaluated, beams = config.evaluation.per_device_eval_batch_size, _beams(config, data)
    if data is None or tokenizer is None or data.stream is not None:
        evaluation = BatchShape(evaluated, full.source, full.target)
        return Largest((full,), evaluation, _new_tokens(config, full.target), from_rows=False, beams=beams)
    train, complete, train_cut = _lengths("train", data.train, tokenizer, config)
    if section.padding == "max_length":
        training: tuple[BatchShape, ...] = (full,)
    elif complete:
        training = _of_epochs(train, config, math.ceil(epochs), source_block)
    else:
        training = (BatchShape(min(rows, len(data.train)), *_longest(train, source_block)),)
    evaluated_rows = data.validation or data.train[:_PROOF_ROWS]
    validation, _, validation_cut = _lengths("validation", evaluated_rows, tokenizer, config)
    test, _, test_cut = _lengths("test", data.test, tokenizer, config)
    longest_target = _longest(train + validation)[1]
    splits = [some for some in (validation, test) if some]
    shapes = [BatchShape(min(evaluated, len(some)), *_longest(some, source_block)) for some in splits]
    cut = (*train_cut, *(validation_cut if data.validation else ()), *test_cut)
    return Largest(training, max(shapes), _new_tokens(config, longest_target), from_rows=True, cut=cut, beams=beams)


def _new_tokens(config: RunConfig, longest_target: int) -> int:
    """The most that generation adds."""
    from spectune.evaluation.generation import resolve_settings

    settings = resolve_settings(config.evaluation, longest_target)
    return settings.max_new_tokens or (settings.max_length or 2) - 1


def _beams(config: RunConfig, data: PreparedData | None) -> int:
    """Rows that stand for one: its beams, or the branches of the label trie that are followed at once."""
    from spectune.evaluation.constrained import BRANCHES_AT_ONCE

    beams, verbalizer = config.evaluation.num_beams, None if data is None else data.verbalizer
    if not config.evaluation.constrain_labels or verbalizer is None:
        return beams
    return max(beams, min(BRANCHES_AT_ONCE, len(verbalizer.words)))


def _lengths(
    split: str, examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> tuple[Lengths, bool, tuple[str, ...]]:
    """Tokens as kept, whether of all rows, of a large table the longest ones must do, and a line if many are cut."""
    complete = sum(len(one.source) + len(one.target) for one in examples) <= _MOST_CHARACTERS
    if not complete:
        by_source = sorted(examples, key=lambda one: -len(one.source))[:_LONGEST]
        examples = [*by_source, *sorted(examples, key=lambda one: -len(one.target))[:_LONGEST]]
    limits = {"max_source_length": config.data.max_source_length, "max_target_length": config.data.max_target_length}
    found = tokenize_examples(examples, tokenizer, **limits, progress=None)
    lengths = [(len(ids), len(labels)) for ids, labels in zip(found.input_ids, found.labels, strict=True)]
    cut = max(found.truncation.sources_cut, found.truncation.targets_cut)
    many = complete and cut > _MANY * len(lengths)
    return lengths, complete, (f"{split} {found.truncation.line()}; {_REMEDY}",) if many else ()


def _longest(lengths: Lengths, source_block: int = 1) -> tuple[int, int]:
    return _padded(max(source for source, _ in lengths), source_block), max(target for _, target in lengths)


def _padded(length: int, block: int) -> int:
    return -(-length // block) * block


def _of_epochs(lengths: Lengths, config: RunConfig, epochs: int, source_block: int) -> tuple[BatchShape, ...]:
    """Of the run's own batches the one with the longest sources, and the one with the longest targets."""
    sources, targets = [source for source, _ in lengths], [target for _, target in lengths]
    rows, seed = config.train.per_device_train_batch_size, config.train.seed
    shapes = {
        BatchShape(len(batch), *_longest([lengths[row] for row in batch], source_block))
        for epoch in range(min(epochs, _EPOCHS))
        for batch in bucketed_batches(
            sources, targets, batch_size=rows, seed=seed, epoch=epoch, source_block=source_block
        )
    }
    by_source = max(shapes, key=lambda shape: (shape.rows * shape.source, shape.target))
    by_target = max(shapes, key=lambda shape: (shape.rows * shape.target, shape.source))
    return tuple({by_source, by_target})
