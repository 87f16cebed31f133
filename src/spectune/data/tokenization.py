"""Examples as token ids: truncation counted, targets that do not survive the tokenizer counted."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spectune.config import DataConfig, EvaluationConfig
from spectune.data.examples import Example
from spectune.data.languages import start_tokens
from spectune.data.wording import count, rows_text
from spectune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 1000
_POSITION_FIELDS = {
    "source": ("max_encoder_position_embeddings", "max_position_embeddings"),
    "target": ("max_decoder_position_embeddings", "max_position_embeddings"),
}
_STACKS = {"source": "encoder", "target": "decoder"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Truncation:
    """What did not fit; lengths are in tokens before the cut, special tokens included."""

    rows: int
    sources_cut: int
    targets_cut: int
    longest_source: int
    longest_target: int

    def line(self) -> str:
        """For people: the share of sources and targets cut, and the longest."""
        rows = max(self.rows, 1)
        return (
            f"cut: {self.sources_cut / rows:.1%} of sources (longest {self.longest_source:,} tokens),"
            f" {self.targets_cut / rows:.1%} of targets (longest {self.longest_target:,})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedSet:
    """Token ids of a split, in its order, without padding."""

    input_ids: list[list[int]]
    labels: list[list[int]]
    """Target ids, the end token included; empty lists for examples without targets."""
    truncation: Truncation
    unfaithful_targets: int
    """Distinct targets that the tokenizer itself does not give back: decode(encode(t)) ≠ t, outer space aside."""
    tokens: int
    """Tokens of sources and targets as kept."""
    seconds: float
    """Wall-clock time of the tokenizer."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all ids, in hexadecimal; equal on every platform."""
        digest = hashlib.sha256()
        for rows in (self.input_ids, self.labels):
            digest.update(f"{len(rows)};".encode())
            for ids in rows:
                digest.update(f"{len(ids)}:{','.join(map(str, ids))};".encode())
        return digest.hexdigest()


def tokenize_examples(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_source_length: int,
    max_target_length: int,
    progress: Callable[[int], None] | None = None,
) -> TokenizedSet:
    """Token ids of all examples, cut to the given lengths (tokens, special ones included).

    A target whose ids hold no end token gets one, as generation stops at nothing else. `progress` is told of every
    thousand texts that are done; each example has two, its source and its target.

    Raises:
        ConfigError: lengths that the tokenizer's special tokens use up.
        DataError: sources that give no token at all.
    """
    _check_room(tokenizer, max_source_length, max_target_length)
    start = time.perf_counter()
    sources = _encode(tokenizer, [example.source for example in examples], "text", progress=progress)
    if any(example.target for example in examples):
        whole_targets = encode_targets([example.target for example in examples], tokenizer, progress)
    else:
        whole_targets = [[] for _ in examples]
    input_ids = _cut(tokenizer, [example.source for example in examples], sources, max_source_length, "source")
    labels = _cut(tokenizer, [example.target for example in examples], whole_targets, max_target_length, "target")
    seconds = time.perf_counter() - start
    _check_not_empty(examples, input_ids)
    return TokenizedSet(
        input_ids=input_ids,
        labels=labels,
        truncation=Truncation(
            rows=len(examples),
            sources_cut=sum(len(ids) > max_source_length for ids in sources),
            targets_cut=sum(len(ids) > max_target_length for ids in whole_targets),
            longest_source=max(map(len, sources), default=0),
            longest_target=max(map(len, whole_targets), default=0),
        ),
        unfaithful_targets=_count_unfaithful(tokenizer, examples, whole_targets),
        tokens=sum(map(len, input_ids)) + sum(map(len, labels)),
        seconds=seconds,
    )


def tokenize_targets(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_target_length: int
) -> list[list[int]]:
    """Token ids of texts as `tokenize_examples` gives them for targets: ended, and cut to `max_target_length`."""
    return _cut(tokenizer, texts, encode_targets(texts, tokenizer), max_target_length, "target")


def encode_targets(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, progress: Callable[[int], None] | None = None
) -> list[list[int]]:
    """Ids of each target, not cut, the end token included."""
    rows, start = _encode(tokenizer, texts, "text_target", progress=progress), start_tokens(tokenizer)
    return [_ended(row[start:], tokenizer.eos_token_id, None) for row in rows]


def longest_reference(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of the longest right output beside the targets, the end token included; 0 where there is none."""
    others = {text for example in examples for text in example.references if text != example.target}
    return max(map(len, encode_targets(sorted(others), tokenizer)), default=0)


def _check_room(tokenizer: PreTrainedTokenizerBase, source: int, target: int) -> None:
    special = tokenizer.num_special_tokens_to_add()
    for side, length in (("source", source), ("target", target)):
        if length <= special:
            raise ConfigError(
                f"data.max_{side}_length {length} leaves no token for the text beside the tokenizer's {special} "
                f"special tokens; set it to {special + 1} or more"
            )


def decode_texts(tokenizer: PreTrainedTokenizerBase, ids: list[list[int]]) -> list[str]:
    """Texts without special tokens, stripped; spaces before punctuation stay as they are."""
    texts: list[str] = tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [text.strip() for text in texts]


def check_lengths(
    config: DataConfig,
    model_config: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    evaluation: EvaluationConfig | None = None,
) -> list[str]:
    """Refuses lengths beyond the model's positions; returns remarks on lengths beyond the tokenizer's advice.

    Models with relative positions (T5) have no limit.

    Raises:
        ConfigError: `max_source_length` or `max_target_length`, or a length that `evaluation` lets outputs grow to, is
            more than the model has positions for.
    """
    if evaluation is not None:
        _check_output_length(evaluation, position_limit(model_config, "target"))
    lengths = {"source": config.max_source_length, "target": config.max_target_length}
    for side, length in lengths.items():
        limit = position_limit(model_config, side)
        if limit is not None and length > limit:
            raise ConfigError(
                f"data.max_{side}_length {length} is more than the {limit} positions of this model's {_STACKS[side]};"
                f" set it to {limit} or less"
            )
    advised = getattr(tokenizer, "model_max_length", None)
    if isinstance(advised, int) and 0 < advised < config.max_source_length:
        return [f"max_source_length {config.max_source_length} is beyond the {advised} tokens the tokenizer advises"]
    return []


def _check_output_length(config: EvaluationConfig, limit: int | None) -> None:
    """The decoder reads the start token and all new tokens but the last."""
    if limit is None:
        return
    longest = {"max_new_tokens": limit, "max_length": limit + 1}
    for name, most in longest.items():
        length = getattr(config, name)
        if isinstance(length, int) and length > most:
            raise ConfigError(
                f"evaluation.{name} {length} is more than the {limit} positions of this model's decoder can write; "
                f"set it to {most} or less"
            )


def position_limit(model_config: Any, side: str) -> int | None:
    """The most tokens of `side` ("source" or "target") the model has positions for; None without a limit."""
    stack = getattr(model_config, _STACKS[side], None)
    for holder in (model_config, stack, getattr(stack, "text_config", None)):
        for name in _POSITION_FIELDS[side]:
            limit = getattr(holder, name, None)
            if isinstance(limit, int) and limit > 0:
                return limit
    return None


def _encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    side: str,
    max_length: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """Ids of each text through the tokenizer's `text` or `text_target` door, which may differ (language codes)."""
    cut: dict[str, Any] = {"truncation": True, "max_length": max_length} if max_length is not None else {}
    ids: list[list[int]] = []
    for batch in _batches(texts):
        # verbose=False: over-long texts are counted here, the tokenizer need not warn of them.
        encoded = tokenizer(**{side: batch}, verbose=False, return_attention_mask=False, **cut)
        ids.extend(encoded["input_ids"])
        if progress is not None:
            progress(len(batch))
    return ids


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), _BATCH):
        yield list(texts[start : start + _BATCH])


def _cut(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], ids: Sequence[list[int]], limit: int, side: str
) -> list[list[int]]:
    """`ids` of `texts` with the over-long ones encoded anew, cut by the tokenizer, which keeps its special tokens."""
    result = list(ids)
    long = [index for index, row in enumerate(ids) if len(row) > limit]
    door, start = ("text", 0) if side == "source" else ("text_target", start_tokens(tokenizer))
    for index, row in zip(long, _encode(tokenizer, [texts[index] for index in long], door, limit + start), strict=True):
        result[index] = row if side == "source" else _ended(row[start:], tokenizer.eos_token_id, limit)
    return result


def _ended(row: list[int], end: int | None, limit: int | None) -> list[int]:
    """The target with an end token; legacy mBART puts a language code behind it, so it may be anywhere."""
    if end is None or end in row:
        return row
    return [*(row if limit is None else row[: limit - 1]), end]


def _count_unfaithful(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], ids: Sequence[list[int]]) -> int:
    distinct = {example.target: row for example, row in zip(examples, ids, strict=True) if row}
    decoded = decode_texts(tokenizer, list(distinct.values())) if distinct else []
    return sum(text != target.strip() for text, target in zip(decoded, distinct, strict=True))


def _check_not_empty(examples: Sequence[Example], input_ids: Sequence[list[int]]) -> None:
    rows = [example.row for example, ids in zip(examples, input_ids, strict=True) if not ids]
    if rows:
        raise DataError(f"{count(len(rows), 'source')} without a single token for this tokenizer ({rows_text(rows)})")
