"""The rows of one optimizer step as tensors, for one process; and what training streams have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from spectune.data.collation import IGNORE_INDEX, collate
from spectune.data.tokenization import TokenizedSet
from spectune.data.windows import Batches, balanced, batches_of_rank
from spectune.errors import RunError


@dataclass(frozen=True, slots=True)
class Window:
    """The micro-batches of one optimizer step."""

    batches: list[dict[str, Tensor]]
    """This process's micro-batches (see `collate`); every process has equally many. One whose labels are all ignored
    has `decoder_labels`, which the decoder's input is made of."""
    target_tokens: int
    """Label tokens of the whole window, over all processes: what the summed cross entropy is divided by."""
    source_tokens: int
    """Source tokens, likewise; padding does not count."""
    rows: int
    """Examples, likewise."""
    epoch: float
    """Epochs done once this window is."""


class TrainingStream(Protocol):
    """An endless stream of windows with a place that can be saved."""

    @property
    def epoch_ended(self) -> bool:
        """Whether the last window handed out was the last one of its epoch."""

    def __iter__(self) -> Iterator[Window]: ...

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream and what the stream is made of; JSON-able."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the place in `state`. Raises RunError when it belongs to another stream."""


class Assembler:
    """Collates the batches of one process. Final.

    Where the rows left at the end of an epoch cannot be shared out evenly (`cut_windows`), a process without one gets
    a row whose labels are all ignored: it takes part in the forward pass, as sharded models need, and adds nothing to
    the *summed* loss. A loss averaged over its labels would be NaN there.
    """

    def __init__(
        self,
        *,
        pad_token_id: int,
        source_length: int | None = None,
        target_length: int | None = None,
        pad_to_multiple_of: int = 1,
        limits: tuple[int, int] | None = None,
        first_token_global: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            source_length: pad every source to this many tokens (`padding: max_length`); None: to the batch's longest.
            target_length: likewise for targets.
            pad_to_multiple_of: round lengths up, within `limits` (see `collate`).
            first_token_global: give LED's `global_attention_mask` with every batch (see `collate`).
            rank: this process, from 0; `world_size` is their number.
        """
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        self._rank = rank
        self.world_size = world_size
        self._collate_padded = partial(
            collate,
            pad_token_id=pad_token_id,
            source_length=source_length,
            target_length=target_length,
            pad_to_multiple_of=pad_to_multiple_of,
            limits=limits,
            first_token_global=first_token_global,
        )

    def window(self, tokenized: TokenizedSet, window: Batches, epoch: float) -> Window:
        """`window` holds the batches of all processes as indices of `tokenized`."""
        rows = [row for batch in window for row in batch]
        return Window(
            batches=[
                self._collate(tokenized, batch) if batch else self._silent(tokenized, rows[0])
                for batch in batches_of_rank(self._balanced(tokenized, window), self._rank, self.world_size)
            ],
            target_tokens=sum(len(tokenized.labels[row]) for row in rows),
            source_tokens=sum(len(tokenized.input_ids[row]) for row in rows),
            rows=len(rows),
            epoch=epoch,
        )

    def _balanced(self, tokenized: TokenizedSet, window: Batches) -> Batches:
        if self.world_size == 1:
            return window
        sides = (tokenized.input_ids, tokenized.labels)
        tokens = [
            sum(len(rows) * max((len(side[row]) for row in rows), default=0) for side in sides) for rows in window
        ]
        return balanced(window, tokens, self.world_size)

    def _collate(self, tokenized: TokenizedSet, rows: list[int]) -> dict[str, Tensor]:
        return self._collate_padded([tokenized.input_ids[row] for row in rows], [tokenized.labels[row] for row in rows])

    def _silent(self, tokenized: TokenizedSet, row: int) -> dict[str, Tensor]:
        batch = self._collate(tokenized, [row])
        # Some models shift labels by a rule (mBART's) that fails on a row without any: it gets those that it ignores.
        batch["decoder_labels"] = batch["labels"].clone()
        batch["labels"].fill_(IGNORE_INDEX)
        return batch


def check_identity(state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises RunError when a saved place belongs to another stream; says what differs."""
    for name, value in identity.items():
        if state.get(name) != value:
            raise RunError(
                f"the run cannot be resumed: the {_SPOKEN[name]} was {state.get(name)!r} and is {value!r} now"
            )


_SPOKEN = {
    "version": "version of the saved data position",
    "fingerprint": "training data or its tokenization (SHA-256)",
    "shuffle_buffer_size": "data.shuffle_buffer_size",
    "batch_size": "per_device_train_batch_size",
    "accumulation_steps": "gradient_accumulation_steps",
    "seed": "seed",
    "world_size": "number of processes",
    "source_block": "length of the model's attention blocks",
}
