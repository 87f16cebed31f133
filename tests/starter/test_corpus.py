"""The batches of pre-training: a function of seed and step, without padding, every chunk once an epoch."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spectune.starter.bundle import model_directory
from spectune.starter.corpus import KINDS, SpanBatches, read_lines, token_stream


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


def test_the_kinds_of_target_take_turns(batches: SpanBatches) -> None:
    first = batches.sentinels[0]
    by_kind = {kind: batches.at(step) for step, kind in enumerate(KINDS)}
    assert set(by_kind) == {"marked", "whole", "bare"}
    assert (by_kind["marked"]["labels"][:, 0] == first).all()
    assert ((by_kind["bare"]["input_ids"] >= first).sum(dim=1) == 1).all()
    for kind in ("whole", "bare"):
        assert not (by_kind[kind]["labels"] >= first).any()
        assert (by_kind[kind]["labels"][:, -1] == 1).all()


def test_a_whole_target_is_the_text_with_its_gaps_filled(batches: SpanBatches) -> None:
    batch = batches.at(KINDS.index("whole"))
    assert batch["labels"].shape[1] == batches.chunk + 1
    for source, target in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
        kept = [token for token in source if token < batches.sentinels[0]]
        rest = iter(target)
        assert all(token in rest for token in kept)  # the visible tokens, in order


def test_other_kinds_begin_when_asked(batches: SpanBatches) -> None:
    late = replace(batches, mixed_from=3)
    assert torch.equal(late.at(1)["labels"][:, 0], torch.full((batches.batch,), batches.sentinels[0]))
    assert torch.equal(late.at(3)["labels"], batches.at(3)["labels"])


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
