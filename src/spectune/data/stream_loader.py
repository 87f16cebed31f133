"""The training stream over data larger than memory: windows from a bounded look-ahead, exactly resumable."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from spectune.data.assembly import Assembler, Window, check_identity
from spectune.data.bucketing import bucketed_batches
from spectune.data.examples import Example
from spectune.data.streaming import ExampleStream, Pass, Place, Tally, start_of_pass
from spectune.data.tokenization import TokenizedSet, Truncation, tokenize_examples
from spectune.data.windows import Batches, cut_windows
from spectune.errors import DataError, RunError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_VERSION = 1
_LOOK_AHEAD = 200  # batches: four mega-batches, as in an epoch that is in memory


@dataclass(frozen=True, slots=True)
class _Block:
    """Rows that are bucketed together."""

    tokenized: TokenizedSet
    windows: list[Batches]
    end: Place
    """Where the next block begins."""
    last: bool
    """Whether the pass over the data ends with it."""


class StreamLoader:
    """An endless stream of windows over the passes of a streamed training set.

    A pure function of the data, the seed, the sizes and the number of processes, as `BatchLoader` is; every process
    reads all rows and takes its share. Rows come through the shuffle buffer of `datasets`, blocks of at most 200
    batches (and at most as many rows as that buffer) are tokenised and sorted into batches of near-equal length.

    Its place is a number of rows drawn in this pass. To go on from there these rows are drawn again, which takes as
    long as reading them, without tokenising; their digest is compared, so other data is refused.
    """

    def __init__(
        self,
        stream: ExampleStream,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_source_length: int,
        max_target_length: int,
        batch_size: int,
        accumulation_steps: int = 1,
        seed: int,
        source_block: int = 1,
        assembler: Assembler,
        check: Callable[[list[list[int]], list[list[int]]], None] | None = None,
    ) -> None:
        """
        Args:
            batch_size: rows of a micro-batch of one process.
            accumulation_steps: micro-batches of one process in a window.
            source_block: as in `BatchLoader`.
            check: given the ids of sources and of targets of every block, raises where the model cannot take them.
        """
        self._stream, self._tokenizer, self._assembler = stream, tokenizer, assembler
        self._max_source_length, self._max_target_length = max_source_length, max_target_length
        self._batch_size, self._accumulation_steps, self._seed = batch_size, accumulation_steps, seed
        self._source_block, self._check = source_block, check
        self._identity: dict[str, int | str] = {
            "version": _VERSION,
            "shuffle_buffer_size": stream.buffer_size,
            "batch_size": batch_size,
            "accumulation_steps": accumulation_steps,
            "seed": seed,
            "world_size": assembler.world_size,
        }
        if source_block > 1:
            self._identity["source_block"] = source_block
        self.tally = Tally()
        """What the first pass has found so far."""
        self._epoch = self._number = self._window = 0
        self._place = start_of_pass(self.tally)
        self._pass: Pass | None = None
        self._ahead: Example | None = None
        self._block: _Block | None = None

    @property
    def epoch_ended(self) -> bool:
        """Whether the last window handed out was the last one of its epoch."""
        return self._epoch > 0 and self._number == self._window == 0

    @property
    def epochs_done(self) -> int:
        """Passes over the data that have come to their end."""
        return self._epoch

    def __iter__(self) -> Iterator[Window]:
        while True:
            block, position = self._current(), self._window
            # The place moves on before the window is handed out, so that a state taken during its step is behind it.
            self._window += 1
            if self._window == len(block.windows):
                self._leave(block)
            yield self._assembler.window(block.tokenized, block.windows[position], float(self._epoch))

    def state_dict(self) -> dict[str, Any]:
        """The place in the stream and what the stream is made of; JSON-able."""
        position = {"epoch": self._epoch, "block": self._number, "window": self._window}
        return {**self._identity, **position, "place": asdict(self._place)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from the place in `state`: draws the rows before it again, to fill the shuffle buffer as it was.

        Raises:
            RunError: the place belongs to another stream, or these rows are not what they were.
        """
        check_identity(state, self._identity)
        try:
            position = [int(state[name]) for name in ("epoch", "block", "window")]
            place = Place(**state["place"])
            tally = Tally(**copy.deepcopy(place.tally))
        except (KeyError, TypeError, ValueError):
            raise RunError("the run cannot be resumed: the data position is damaged") from None
        self._epoch, self._number, self._window = position
        self._place, self.tally, self._pass, self._ahead, self._block = place, tally, None, None, None
        if not self._is_there():
            raise RunError(f"the run cannot be resumed: the data position {position} is damaged")

    def _is_there(self) -> bool:
        """Be where a run that was not stopped is: it has read the block it is in, and before one a row, no more."""
        if self._window:
            return 0 < self._window < len(self._current().windows)
        if self._number:
            self._ahead = next(self._passing().examples, None)
            return self._ahead is not None
        return True

    def _leave(self, block: _Block) -> None:
        """Go to the start of the next block, or of the next pass."""
        self._block, self._window = None, 0
        if block.last:
            self._epoch, self._number, self._pass = self._epoch + 1, 0, None
            self._place = start_of_pass(self.tally)
        else:
            self._number, self._place = self._number + 1, block.end

    def _current(self) -> _Block:
        if self._block is None:
            self._block = self._read()
        return self._block

    def _read(self) -> _Block:
        """Tokenise and bucket the rows of a block; the example after it is looked at, to know whether there is one."""
        passing = self._passing()
        rows = [self._ahead] if self._ahead is not None else []
        rows += islice(passing.examples, self._block_rows() - len(rows))
        if not rows:
            raise DataError(f"{self._stream.origin} has no usable row; {'; '.join(self.tally.lines(True))}")
        tokenized = tokenize_examples(
            rows,
            self._tokenizer,
            max_source_length=self._max_source_length,
            max_target_length=self._max_target_length,
        )
        if self._check is not None:
            self._check(tokenized.input_ids, tokenized.labels)
        if self._epoch == 0:
            self._count(tokenized.truncation)
        end = passing.place()
        self._ahead = next(passing.examples, None)
        batches = bucketed_batches(
            [len(ids) for ids in tokenized.input_ids],
            [len(ids) for ids in tokenized.labels],
            batch_size=self._batch_size,
            seed=self._seed,
            epoch=f"{self._epoch}/{self._number}",
            source_block=self._source_block,
        )
        windows = cut_windows(
            batches, accumulation_steps=self._accumulation_steps, world_size=self._assembler.world_size
        )
        return _Block(tokenized, windows, end, last=self._ahead is None)

    def _passing(self) -> Pass:
        """The pass over the data, at the place where this loader is."""
        if self._pass is None:
            self._pass = Pass(self._stream, seed=self._seed, epoch=self._epoch, tally=self.tally)
            self._pass.skip(self._place)
        return self._pass

    def _block_rows(self) -> int:
        """Rows of a block: whole windows, of about 200 batches, but no more than the shuffle buffer may hold."""
        batches = self._accumulation_steps * self._assembler.world_size
        rows = batches * self._batch_size
        return rows * max(1, min(-(-_LOOK_AHEAD // batches), self._stream.buffer_size // rows))

    def _count(self, truncation: Truncation) -> None:
        self.tally.sources_cut += truncation.sources_cut
        self.tally.targets_cut += truncation.targets_cut
        self.tally.longest_source = max(self.tally.longest_source, truncation.longest_source)
        self.tally.longest_target = max(self.tally.longest_target, truncation.longest_target)
