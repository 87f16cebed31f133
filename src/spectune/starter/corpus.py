"""The pre-training text as a stream of tokens, and its batches as a pure function of seed and step."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from spectune.starter.spans import corrupt, span_mask
from spectune.starter.tokenizer import SENTINELS, sentinel

DENSITY, MEAN_SPAN = 0.15, 3.0
Kind = Literal["marked", "whole", "bare"]
KINDS: tuple[Kind, ...] = ("marked", "whole", "marked", "bare")
"""What the batches ask for in turn: the fillings behind their sentinels (T5); the whole text, gaps filled; the bare
filling of a single gap.

A model that has only ever begun with ``<extra_id_0>`` needs a violent update before it can begin with anything else,
which drowns what it knows (Lester et al., 2021, section 3, on prompt tuning of T5). And only whole texts teach it to
copy, which is most of data-to-text and summarisation; Raffel et al. (2020, table 3: "replace spans, whole target")
found them as good as marked fillings, at a higher price.
"""


def read_lines(path: Path) -> list[str]:
    """The non-empty lines of a UTF-8 text file, plain or gzipped."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as file:
        return [stripped for line in file if (stripped := line.strip())]


def token_stream(lines: list[str], tokenizer: PreTrainedTokenizerFast, block: int = 20_000) -> NDArray[np.int32]:
    """All lines one after the other, each closed by ``</s>``: one vector of ids."""
    parts: list[NDArray[np.int32]] = []
    for start in range(0, len(lines), block):
        for ids in tokenizer(lines[start : start + block], truncation=False, verbose=False)["input_ids"]:
            parts.append(np.asarray(ids, dtype=np.int32))
    return np.concatenate(parts)


@dataclass(frozen=True)
class SpanBatches:
    """Batches of corrupted chunks of ``chunk`` tokens; batch ``step`` is the same in every run with this seed.

    From step ``mixed_from`` on, the kinds of ``KINDS`` take turns; before it, all are marked.
    """

    stream: NDArray[np.int32]
    tokenizer: PreTrainedTokenizerFast
    chunk: int
    batch: int
    seed: int
    mixed_from: int = 0

    def __post_init__(self) -> None:
        if self.chunks_per_epoch < self.batch:
            needed = (self.batch + 1) * self.chunk
            raise ValueError(
                f"{len(self.stream)} tokens are too few: one batch needs {needed}; lower --batch or --chunk"
            )

    @cached_property
    def sentinels(self) -> list[int]:
        """The ids of the sentinels, in order."""
        ids = self.tokenizer.get_vocab()
        return [ids[sentinel(index)] for index in range(SENTINELS)]

    @property
    def chunks_per_epoch(self) -> int:
        """Whole chunks in one pass; one is given up so that each pass can start at another offset."""
        return len(self.stream) // self.chunk - 1

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in one pass."""
        return self.chunks_per_epoch // self.batch

    def at(self, step: int) -> dict[str, Tensor]:
        """Batch ``step`` (from 0): ``input_ids`` (batch, source length) and ``labels`` (batch, target length)."""
        epoch, index = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, 0, epoch))
        offset = int(order.integers(self.chunk))
        # The whole order is redrawn at each step: a few milliseconds, and no state to save.
        chosen = order.permutation(self.chunks_per_epoch)[index * self.batch : (index + 1) * self.batch]
        noise = np.random.default_rng((self.seed, 1, step))
        kind = KINDS[step % len(KINDS)] if step >= self.mixed_from else "marked"
        return self._collate([self._chunk(offset + int(row) * self.chunk) for row in chosen], noise, kind)

    def in_order(self, batches: int) -> Iterator[dict[str, Tensor]]:
        """The first ``batches`` batches in reading order with fixed spans: the held-out measure."""
        for index in range(min(batches, self.steps_per_epoch)):
            rows = [self._chunk((index * self.batch + row) * self.chunk) for row in range(self.batch)]
            yield self._collate(rows, np.random.default_rng((self.seed, 2, index)))

    def _chunk(self, start: int) -> NDArray[np.int64]:
        return self.stream[start : start + self.chunk].astype(np.int64)

    def _collate(
        self, rows: list[NDArray[np.int64]], noise: np.random.Generator, kind: Kind = "marked"
    ) -> dict[str, Tensor]:
        mean_span = float(self.chunk) if kind == "bare" else MEAN_SPAN
        eos = self.tokenizer.eos_token_id
        pairs = [corrupt(row, span_mask(len(row), DENSITY, mean_span, noise), self.sentinels, eos) for row in rows]
        targets: dict[Kind, list[NDArray[np.int64]]] = {
            "marked": [target for _, target in pairs],
            "bare": [target[1:] for _, target in pairs],
            "whole": [np.append(row, eos) for row in rows],
        }
        return {
            "input_ids": torch.from_numpy(np.stack([source for source, _ in pairs])),
            "labels": torch.from_numpy(np.stack(targets[kind])),
        }
