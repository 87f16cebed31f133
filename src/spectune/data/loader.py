"""The training stream: one window of micro-batches for each optimizer step, and its place, exactly resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spectune.data.assembly import Assembler, Window, check_identity
from spectune.data.bucketing import bucketed_batches
from spectune.data.tokenization import TokenizedSet
from spectune.data.windows import Batches, cut_windows, windows_per_epoch
from spectune.errors import DataError, RunError

__all__ = ["BatchLoader", "Window"]

_VERSION = 1


class BatchLoader:
    """An endless stream of windows over the epochs of a tokenised set.

    The stream is a pure function of the data, the seed, the batch size, the accumulation and the number of processes;
    its place is two integers. Iterating goes on from that place; a window counts as read when it is handed out.
    """

    def __init__(
        self,
        tokenized: TokenizedSet,
        *,
        batch_size: int,
        accumulation_steps: int = 1,
        seed: int,
        pad_token_id: int,
        source_length: int | None = None,
        target_length: int | None = None,
        pad_to_multiple_of: int = 1,
        limits: tuple[int, int] | None = None,
        first_token_global: bool = False,
        source_block: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            tokenized: the training rows.
            batch_size: rows of a micro-batch of one process.
            accumulation_steps: micro-batches of one process in a window.
            source_length: pad every source to this many tokens (`padding: max_length`); None: to the batch's longest.
            target_length: likewise for targets.
            pad_to_multiple_of: round lengths up, within `limits` (see `collate`).
            first_token_global: give LED's `global_attention_mask` with every batch (see `collate`).
            source_block: tokens that the model pads sources to a multiple of, inside itself; rows that fill equally
                many blocks cost the same there, and are put together by the length of their targets.
            rank: this process, from 0; `world_size` is their number.

        Raises:
            DataError: there are no rows.
        """
        if not tokenized.input_ids:
            raise DataError("there are no rows to train on")
        if accumulation_steps < 1:
            raise ValueError(f"accumulation {accumulation_steps}")
        self._tokenized = tokenized
        self._source_lengths = [len(ids) for ids in tokenized.input_ids]
        self._target_lengths = [len(ids) for ids in tokenized.labels]
        self._batch_size = batch_size
        self._accumulation_steps = accumulation_steps
        self._seed = seed
        self._source_block = source_block
        self._assembler = Assembler(
            pad_token_id=pad_token_id,
            source_length=source_length,
            target_length=target_length,
            pad_to_multiple_of=pad_to_multiple_of,
            limits=limits,
            first_token_global=first_token_global,
            rank=rank,
            world_size=world_size,
        )
        self._identity: dict[str, int | str] = {
            "version": _VERSION,
            "fingerprint": tokenized.fingerprint,
            "batch_size": batch_size,
            "accumulation_steps": accumulation_steps,
            "seed": seed,
            "world_size": world_size,
        }
        if source_block > 1:
            self._identity["source_block"] = source_block
        self._epoch = 0
        self._window = 0
        self._skipped = 0  # batches of this epoch that another number of processes has read
        self._plan: tuple[int, list[Batches]] | None = None

    @property
    def _batches(self) -> int:
        """Of an epoch, over all processes."""
        return -(-len(self._source_lengths) // self._batch_size)

    @property
    def windows_per_epoch(self) -> int:
        """Optimizer steps of one epoch."""
        return windows_per_epoch(
            len(self._source_lengths),
            batch_size=self._batch_size,
            accumulation_steps=self._accumulation_steps,
            world_size=self._assembler.world_size,
        )

    @property
    def epoch_ended(self) -> bool:
        """Whether the last window handed out was the last one of its epoch."""
        return self._epoch > 0 and self._window == 0

    def __iter__(self) -> Iterator[Window]:
        while True:
            windows = self._windows_of(self._epoch)
            position = self._window
            done = self._skipped / self._batches
            epoch = self._epoch + done + (1 - done) * (position + 1) / len(windows)
            # The place moves on before the window is handed out, so that a state taken during its step is behind it.
            self._window += 1
            if self._window == len(windows):
                self._epoch, self._window, self._skipped = self._epoch + 1, 0, 0
            yield self._assembler.window(self._tokenized, windows[position], epoch)

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream and what the stream is made of; JSON-able."""
        skipped = {"skipped": self._skipped} if self._skipped else {}
        return {**self._identity, "epoch": self._epoch, "window": self._window, **skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the place in `state`. Raises RunError when it belongs to another stream.

        One of another number of processes is taken up at the same row: the rest of its epoch is cut into windows anew.
        """
        size, before = self._assembler.world_size, state.get("world_size")
        check_identity({**state, "world_size": size}, self._identity)
        epoch, window, skipped = state.get("epoch"), state.get("window"), state.get("skipped", 0)
        if not isinstance(epoch, int) or not isinstance(window, int) or epoch < 0:
            raise RunError(f"the run cannot be resumed: the data position {epoch!r}, {window!r} is damaged")
        in_a_window = self._accumulation_steps * (before if isinstance(before, int) else size)
        steps = -(-(self._batches - skipped) // in_a_window)
        if not 0 <= window < steps:
            raise RunError(f"the run cannot be resumed: an epoch has {steps} steps, not {window}")
        if in_a_window != self._accumulation_steps * size:
            window, skipped = 0, skipped + window * in_a_window
        self._epoch, self._window, self._skipped, self._plan = epoch, window, skipped, None

    def _windows_of(self, epoch: int) -> list[Batches]:
        if self._plan is None or self._plan[0] != epoch:
            batches = bucketed_batches(
                self._source_lengths,
                self._target_lengths,
                batch_size=self._batch_size,
                seed=self._seed,
                epoch=epoch,
                source_block=self._source_block,
            )
            windows = cut_windows(
                batches[self._skipped :],
                accumulation_steps=self._accumulation_steps,
                world_size=self._assembler.world_size,
            )
            self._plan = (epoch, windows)
        return self._plan[1]
