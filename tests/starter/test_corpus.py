"""The batches of pre-training: a function of seed and step, without padding, every chunk once an epoch."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spectune.starter.bundle import model_directory
from spectune.starter.corpus import BARE_EVERY, SpanBatches, read_lines, token_stream


@pytest.fixture(scope="module")
def batches() -> SpanBatches:
    stream = np.random.default_rng(0).integers(3, 6000, 64 * 41).astype(np.int32)
    tokenizer = AutoTokenizer.from_pretrained(model_directory())
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return SpanBatches(stream, tokenizer, chunk=64, batch=8, seed=5)


def test_a_batch_is_a_function_of_the_step(batches: SpanBatches) -> None:
    first, again, other = batches.at(6), batches.at(6), batches.at(5)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["input_ids"], other["input_ids"])


def test_a_chunk_comes_once_an_epoch(batches: SpanBatches) -> None:
    assert batches.steps_per_epoch == 5
    visible = [row.tolist() for step in range(5) for row in batches.at(step)["input_ids"][:, :-1]]
    # Random ids hardly repeat, so chunks that overlap would share many.
    shares = [len(set(a) & set(b)) for index, a in enumerate(visible) for b in visible[:index]]
    assert len(visible) == 40
    assert max(shares) < 16


def test_one_batch_in_four_asks_for_the_bare_filling(batches: SpanBatches) -> None:
    bare, marked = batches.at(BARE_EVERY - 1), batches.at(BARE_EVERY)
    first = batches.sentinels[0]
    assert ((bare["input_ids"] >= first).sum(dim=1) == 1).all()
    assert not (bare["labels"] >= first).any()
    assert (marked["labels"][:, 0] == first).all()
    assert (bare["labels"][:, -1] == 1).all()


def test_lines_are_read_plain_or_gzipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n  two \n", encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n"))
    assert read_lines(tmp_path / "a.txt") == read_lines(tmp_path / "a.txt.gz") == ["one", "two"]


def test_the_stream_closes_each_line(batches: SpanBatches) -> None:
    stream = token_stream(["one line", "another"], batches.tokenizer)
    assert (stream == 1).sum() == 2
    assert stream[-1] == 1


def test_too_little_text_is_said_plainly(batches: SpanBatches) -> None:
    with pytest.raises(ValueError, match="lower --batch or --chunk"):
        SpanBatches(batches.stream[:100], batches.tokenizer, chunk=64, batch=8, seed=0)
