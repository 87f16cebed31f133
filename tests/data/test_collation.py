"""Padded tensors."""

from __future__ import annotations

import pytest
import torch

from spectune.data.collation import collate


def test_padding_to_the_longest() -> None:
    batch = collate([[5, 6, 1], [7, 1]], [[8, 1], [9]], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 1], [7, 1, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[8, 1], [9, -100]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_pad_tokens_of_the_text_are_attended() -> None:
    assert collate([[0, 5], [6]], None, pad_token_id=0)["attention_mask"].tolist() == [[1, 1], [1, 0]]


def test_fixed_lengths_and_multiples() -> None:
    batch = collate([[5, 1]], [[8, 1]], pad_token_id=0, source_length=5, target_length=3, pad_to_multiple_of=4)
    assert batch["input_ids"].shape == (1, 8)
    assert batch["labels"].shape == (1, 4)
    with pytest.raises(ValueError, match="does not fit into 1"):
        collate([[5, 1]], None, pad_token_id=0, source_length=1)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [((9, 3), (16, 3)), ((8, 9), (8, 16)), ((17, 33), (20, 40)), ((20, 20), (20, 24))],
)
def test_longer_ones_are_rounded_up_within_the_limits(lengths: tuple[int, int], expected: tuple[int, int]) -> None:
    source, target = ([[7] * length] for length in lengths)
    plain = collate(source, target, pad_token_id=0)
    batch = collate(source, target, pad_token_id=0, pad_to_multiple_of=8, limits=(20, 40))
    assert (batch["input_ids"].shape[1], batch["labels"].shape[1]) == expected
    for name, fill in (("input_ids", 0), ("attention_mask", 0), ("labels", -100)):
        own = plain[name].shape[1]
        assert torch.equal(batch[name][:, :own], plain[name])
        assert (batch[name][:, own:] == fill).all()


def test_no_labels() -> None:
    assert set(collate([[5, 1]], None, pad_token_id=0)) == {"input_ids", "attention_mask"}
    with pytest.raises(ValueError, match="1 sources against 2 targets"):
        collate([[5]], [[1], [2]], pad_token_id=0)
