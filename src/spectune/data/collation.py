"""Token ids as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IGNORE_INDEX = -100


def collate(
    input_ids: Sequence[Sequence[int]],
    labels: Sequence[Sequence[int]] | None,
    *,
    pad_token_id: int,
    source_length: int | None = None,
    target_length: int | None = None,
    ignore_index: int = IGNORE_INDEX,
    pad_to_multiple_of: int = 1,
    limits: tuple[int, int] | None = None,
    first_token_global: bool = False,
) -> dict[str, Tensor]:
    """One batch, padded on the right.

    Args:
        input_ids: n rows of source ids.
        labels: n rows of target ids; None leaves `labels` out (generation).
        source_length: pad sources to this many tokens (`padding: max_length`); None: to the longest.
        target_length: likewise for targets.
        ignore_index: fills `labels`; the cross entropy leaves it out.
        pad_to_multiple_of: round both lengths up to a multiple, as `rounded_length` does.
        limits: of source and target, in tokens, that this must not go beyond.
        first_token_global: also LED's `global_attention_mask` (n × source length), 1 at each row's first token.

    Returns:
        `input_ids` (n × source length), `attention_mask` (n × source length; 1 for tokens, 0 for padding) and
        `labels` (n × target length), all int64 on the CPU.
    """
    source_limit, target_limit = limits or (None, None)
    sources = _padded(input_ids, pad_token_id, source_length, pad_to_multiple_of, source_limit)
    lengths = torch.tensor([len(ids) for ids in input_ids], dtype=torch.int64)  # (n,)
    batch = {
        "input_ids": sources,
        "attention_mask": (torch.arange(sources.shape[1]) < lengths[:, None]).to(torch.int64),
    }
    if first_token_global:
        batch["global_attention_mask"] = torch.zeros_like(sources).index_fill_(1, torch.tensor([0]), 1)
    if labels is not None:
        if len(labels) != len(input_ids):
            raise ValueError(f"{len(input_ids)} sources against {len(labels)} targets")
        batch["labels"] = _padded(labels, ignore_index, target_length, pad_to_multiple_of, target_limit)
    return batch


def padded_labels(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of target ids as (n × longest) int64 on the CPU, filled up with what the cross entropy leaves out."""
    return _padded(rows, IGNORE_INDEX, None)


def rounded_length(length: int, multiple: int, limit: int | None = None) -> int:
    """`length` tokens up to a multiple, at most `limit`; what is shorter than `multiple` stays as it is.

    A label of two tokens in eight would cost its decoder, and the logits of a whole vocabulary, four times as much.
    """
    return length if length <= multiple else _up_to(length, multiple, limit)


def _up_to(length: int, multiple: int, limit: int | None) -> int:
    rounded = -(-length // multiple) * multiple
    return rounded if limit is None else max(length, min(rounded, limit))


def _padded(
    rows: Sequence[Sequence[int]], fill: int, length: int | None, multiple: int = 1, limit: int | None = None
) -> Tensor:
    longest = max(map(len, rows), default=0)
    if length is not None and longest > length:
        raise ValueError(f"a row of {longest} tokens does not fit into {length}")
    width = rounded_length(longest, multiple, limit) if length is None else _up_to(length, multiple, limit)
    return torch.tensor([[*ids, *[fill] * (width - len(ids))] for ids in rows], dtype=torch.int64).reshape(
        len(rows), width
    )
