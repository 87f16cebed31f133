"""The training stream: complete, exact on resume, equal for every number of processes."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.data.helpers import line_of, tokenized

from spectune.data.loader import BatchLoader, Window
from spectune.data.tokenization import TokenizedSet
from spectune.data.windows import batches_of_rank, cut_windows, windows_per_epoch
from spectune.errors import DataError, RunError

DATA = tokenized([(3 + row % 7, 1 + row % 4) for row in range(43)])


def loader(data: TokenizedSet = DATA, **settings: Any) -> BatchLoader:
    return BatchLoader(data, **{"batch_size": 4, "accumulation_steps": 2, "seed": 5, "pad_token_id": 0, **settings})


def rows_of(window: Window) -> list[int]:
    """Rows that count in the loss: those with a label."""
    return [
        int(ids[0]) - 10
        for batch in window.batches
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
        if (labels != -100).any()
    ]


def equal(first: Window, second: Window) -> bool:
    same = [
        a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
        for a, b in zip(first.batches, second.batches, strict=True)
    ]
    counts = [(w.target_tokens, w.source_tokens, w.rows, w.epoch) for w in (first, second)]
    return all(same) and counts[0] == counts[1]


def test_an_epoch_has_every_row_once() -> None:
    stream = loader()
    assert stream.windows_per_epoch == 6
    windows = list(itertools.islice(stream, 12))
    for epoch in (windows[:6], windows[6:]):
        assert sorted(row for window in epoch for row in rows_of(window)) == list(range(43))
    assert [window.epoch for window in windows] == pytest.approx([step / 6 for step in range(1, 13)])
    assert rows_of(windows[0]) != rows_of(windows[6])


def test_token_counts_are_those_of_the_window() -> None:
    for window in itertools.islice(loader(), 6):
        assert window.target_tokens == sum(int((batch["labels"] != -100).sum()) for batch in window.batches)
        assert window.source_tokens == sum(int(batch["attention_mask"].sum()) for batch in window.batches)
        assert window.rows == sum(len(batch["labels"]) for batch in window.batches)


@pytest.mark.parametrize("read", range(14))
def test_resume_equals_the_uninterrupted_stream(read: int) -> None:
    whole = list(itertools.islice(loader(), 20))
    first = loader()
    for _ in itertools.islice(first, read):
        pass
    second = loader()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert all(equal(a, b) for a, b in zip(whole[read:], itertools.islice(second, 20 - read), strict=True))


def test_iterating_goes_on_where_it_stopped() -> None:
    stream = loader()
    parts = [*itertools.islice(stream, 4), *itertools.islice(stream, 4)]
    assert all(equal(a, b) for a, b in zip(parts, itertools.islice(loader(), 8), strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 8}, "per_device_train_batch_size was 4 and is 8 now"),
        ({"accumulation_steps": 1}, "gradient_accumulation_steps was 2 and is 1 now"),
        ({"seed": 6}, "seed was 5 and is 6 now"),
        ({"data": tokenized([(3, 1)] * 43)}, "training data or its tokenization"),
    ],
)
def test_another_stream_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as error:
        loader(**settings).load_state_dict(loader().state_dict())
    assert message in line_of(error)


@pytest.mark.parametrize("damage", [{"window": 6}, {"window": -1}, {"epoch": -1}, {"epoch": "x"}, {"version": 0}])
def test_damaged_positions_are_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(RunError, match="cannot be resumed"):
        loader().load_state_dict({**loader().state_dict(), **damage})


@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 8, 9, 43])
def test_processes_share_each_window(rows: int, world_size: int) -> None:
    data = tokenized([(3 + row % 7, 1 + row % 4) for row in range(rows)])
    ranks = [loader(data, rank=rank, world_size=world_size) for rank in range(world_size)]
    steps = ranks[0].windows_per_epoch
    epoch = [list(itertools.islice(rank, steps)) for rank in ranks]
    assert sorted(row for windows in epoch for window in windows for row in rows_of(window)) == list(range(rows))
    for step in zip(*epoch, strict=True):
        assert len({len(window.batches) for window in step}) == 1
        assert len({(window.target_tokens, window.rows) for window in step}) == 1
        counted = sum(int((batch["labels"] != -100).sum()) for window in step for batch in window.batches)
        assert counted == step[0].target_tokens


def test_two_processes_read_what_one_accumulates() -> None:
    alone = list(itertools.islice(loader(accumulation_steps=2), 5))
    ranks = [loader(accumulation_steps=1, rank=rank, world_size=2) for rank in (0, 1)]
    for one, *two in zip(alone, *(itertools.islice(rank, 5) for rank in ranks), strict=True):
        assert rows_of(one) == [row for window in two for row in rows_of(window)]


@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 4), st.integers(1, 5))
def test_windows_are_shared_evenly(rows: int, size: int, accumulation: int, world_size: int) -> None:
    batches = [list(range(start, min(start + size, rows))) for start in range(0, rows, size)]
    windows = cut_windows(batches, accumulation_steps=accumulation, world_size=world_size)
    assert len(windows) == windows_per_epoch(
        rows, batch_size=size, accumulation_steps=accumulation, world_size=world_size
    )
    assert [row for window in windows for batch in window for row in batch] == list(range(rows))
    for window in windows:
        shares = [batches_of_rank(window, rank, world_size) for rank in range(world_size)]
        assert len({len(share) for share in shares}) == 1
        assert all(len(batch) <= size for batch in window)
        assert all(window) or max(map(len, window)) == 1


def test_fixed_lengths() -> None:
    window = next(iter(loader(source_length=12, target_length=6)))
    assert {batch["input_ids"].shape[1] for batch in window.batches} == {12}
    assert {batch["labels"].shape[1] for batch in window.batches} == {6}


def test_first_tokens_with_global_attention() -> None:
    window = next(iter(loader(first_token_global=True)))
    for batch in window.batches:
        mask = batch["global_attention_mask"]
        assert mask.shape == batch["input_ids"].shape
        assert mask[:, 0].all()
        assert mask.sum() == len(mask)
    assert "global_attention_mask" not in next(iter(loader())).batches[0]


def test_rows_of_equally_many_blocks_are_sorted_by_their_targets() -> None:
    """Sources of 33 to 64 tokens cost a model with windows of 32 the same; its decoder's padding is what can be saved.

    Without blocks the exact length of a source decides, and targets of all lengths meet in a batch.
    """
    data = tokenized([(33 + row * 7 % 32, 1 + row * 11 % 40) for row in range(200)])

    def padding(block: int) -> int:
        windows = itertools.islice(loader(data, batch_size=8, source_block=block), 13)
        return sum(int((batch["labels"] == -100).sum()) for window in windows for batch in window.batches)

    assert 3 * padding(32) < padding(1)
    with pytest.raises(RunError, match="length of the model's attention blocks was None and is 32 now"):
        loader(source_block=32).load_state_dict(loader().state_dict())


def test_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="no rows to train on"):
        loader(tokenized([]))


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_another_number_of_processes_goes_on_from_the_same_row(before: int, after: int) -> None:
    """What is left of the epoch is read once, and the next epoch is whole; saved and taken up twice on the way."""

    def read(streams: list[BatchLoader]) -> list[int]:
        return [row for stream in streams for row in rows_of(next(iter(stream)))]

    def taken_up(state: dict[str, Any], size: int) -> list[BatchLoader]:
        streams = [loader(accumulation_steps=1, rank=rank, world_size=size) for rank in range(size)]
        for stream in streams:
            stream.load_state_dict(json.loads(json.dumps(state)))
        return streams

    streams = taken_up(loader(accumulation_steps=1, world_size=before).state_dict(), before)
    seen = read(streams)
    for _ in range(2):  # the second time by as many as saved it
        streams = taken_up(streams[0].state_dict(), after)
        seen += read(streams)
    while not streams[0].epoch_ended:
        seen += read(streams)
    assert sorted(seen) == list(range(43))
    whole = [row for _ in range(streams[0].windows_per_epoch) for row in read(streams)]
    assert sorted(whole) == list(range(43))


def shares(world_size: int, accumulation: int) -> tuple[float, float]:
    """Tokens, padding included, of the process that has most against the mean: over four epochs, and mean of a step."""
    data = tokenized([(4 + row * 7 % 61, 1 + row * 11 % 23) for row in range(640)])
    ranks = [
        loader(data, accumulation_steps=accumulation, rank=rank, world_size=world_size) for rank in range(world_size)
    ]
    steps = 4 * ranks[0].windows_per_epoch
    sizes = [
        [sum(b["input_ids"].numel() + b["labels"].numel() for b in window.batches) for window in windows]
        for windows in zip(*(itertools.islice(rank, steps) for rank in ranks), strict=True)
    ]
    whole = [sum(column) for column in zip(*sizes, strict=True)]
    steps_alone = [max(step) / (sum(step) / world_size) for step in sizes]
    return max(whole) * world_size / sum(whole), sum(steps_alone) / len(steps_alone)


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_shares_of_the_processes_are_balanced_by_tokens(world_size: int) -> None:
    """A run's always; a step's where there is something to choose."""
    for accumulation, of_a_step in ((1, 1.4), (2, 1.1), (4, 1.04), (8, 1.02)):
        run, step = shares(world_size, accumulation)
        assert run < 1.06
        assert step < of_a_step
