"""Rows spread over several processes: the texts and numbers of one process, in its order.

Whole batches are dealt out, longest first. So every batch is the one that a single process would make, and its texts
and losses are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from signal import Signals
from typing import Any, TypeVar

import torch

from spectune.data.tokenization import TokenizedSet
from spectune.errors import Interrupted
from spectune.evaluation.constrained import LabelOutputs
from spectune.evaluation.decoding import batches_by_length
from spectune.evaluation.evaluate import OnBatch, Outputs
from spectune.evaluation.trained import TrainedAdapter
from spectune.formats.digests import weights_digest
from spectune.launch import check_launch, said_once
from spectune.training.lockstep import Lockstep
from spectune.training.parallel import Processes, joined
from spectune.training.signals import Stop, catch_signals

T = TypeVar("T")


class Spread:
    """An evaluation's rows among processes that have met (a `Sharing`). Final."""

    def __init__(self, processes: Processes, lockstep: Lockstep | None = None) -> None:
        """All of `processes` make the same calls; `lockstep` where the base's layers are shared out among them."""
        self._processes, self._lockstep = processes, lockstep

    def write(
        self, tokenized: TokenizedSet, batch_size: int, write: Callable[[TokenizedSet, OnBatch | None], Outputs]
    ) -> Outputs:
        """The outputs of all rows, in their order; each process writes its share.

        Raises:
            RunError: the processes were given different rows.
            Interrupted: a signal asked one of several processes to stop.
        """
        processes = self._processes
        if not processes.several:
            return write(tokenized, None)
        processes.check_equal({"the rows": tokenized.fingerprint, "the batch size": batch_size})
        lengths = [len(ids) for ids in tokenized.input_ids]
        rows = rows_of_rank(lengths, batch_size, processes.rank, processes.size)
        own = replace(
            tokenized,
            input_ids=[tokenized.input_ids[row] for row in rows],
            labels=[tokenized.labels[row] for row in rows],
        )
        if self._lockstep is None:
            written = processes.together(lambda: write(own, processes.stop_between_batches) if rows else None)
        else:  # gathering goes on inside, so that a failure ends the run
            with self._lockstep.evaluation():
                written = write(own, None) if rows else None
        shares = [(places, found) for places, found in processes.gather((rows, written)) if found is not None]
        return in_order(shares, len(lengths))

    def once(self, work: Callable[[], T]) -> T:
        """What `work` comes to in process 0."""
        return self._processes.first(work)


@contextmanager
def met() -> Iterator[Processes]:
    """The processes of an evaluation or prediction, which meet here and part at the end of the block.

    Raises:
        UserError: as `joined` does.
        Interrupted: a signal asked one of them to stop.
    """
    with said_once():
        check_launch()
    with catch_signals(Stop("ending after this batch")) as stop:
        try:
            with joined(False, stop, lambda: "start the command again") as processes:
                yield processes
        except Interrupted as interrupted:
            name = Signals(interrupted.signum).name
            raise Interrupted(interrupted.signum, f"stopped by {name}; nothing was written") from None


def check_alike(processes: Processes, adapter: TrainedAdapter) -> None:
    """Raises RunError where processes hold other adapters or bases, or compute with something else."""

    def facts() -> dict[str, Any]:
        return {
            "the adapter's settings": adapter.settings,
            "the adapter or its base": weights_digest(adapter.model),
            "the kind of device": adapter.model.device.type,
            "the number of threads": torch.get_num_threads(),
            **{f"the version of {name}": version(name) for name in ("torch", "transformers", "peft")},
        }

    processes.check_equal(processes.together(facts))


def rows_of_rank(lengths: Sequence[int], batch_size: int, rank: int, world_size: int) -> list[int]:
    """Row numbers of a process, rising: every `world_size`-th batch of those that one process would make."""
    return sorted(row for batch in batches_by_length(lengths, batch_size)[rank::world_size] for row in batch)


def in_order(shares: Sequence[tuple[Sequence[int], Outputs]], rows: int) -> Outputs:
    """One set of outputs out of the shares of all processes, each with its row numbers."""
    predictions = [""] * rows
    losses: list[tuple[float, float]] | None = None
    for places, found in shares:
        for row, text in zip(places, found.predictions, strict=True):
            predictions[row] = text
        if found.losses is not None:
            losses = [*(losses or []), *found.losses]
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
