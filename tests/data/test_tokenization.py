"""Examples as token ids."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.data.helpers import example, line_of
from tokenizers import processors
from transformers import BartConfig, LEDConfig, PreTrainedTokenizerFast, T5Config

from spectune.config import DataConfig
from spectune.data.examples import Example
from spectune.data.prepare import prepare_data
from spectune.data.tokenization import (
    check_lengths,
    decode_texts,
    encode_targets,
    longest_reference,
    tokenize_examples,
)
from spectune.errors import ConfigError, DataError

EXAMPLES = [example(1, "profit rose", "positive"), example(2, "sales fell by ten per cent", "negative")]
EOS = 1


def test_the_longest_right_output_counts_what_is_no_target(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    long = "profit rose to five million euros"
    rows = [Example(row=1, source="a", target="ok", label=None, references=("ok", long))]
    assert longest_reference(rows, tiny_tokenizer) == len(encode_targets([long], tiny_tokenizer)[0])
    assert longest_reference([replace(rows[0], references=("ok",))], tiny_tokenizer) == 0


def test_ids_end_and_decode(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    result = tokenize_examples(EXAMPLES, tiny_tokenizer, max_source_length=64, max_target_length=16)
    assert len(result) == 2
    assert all(ids[-1] == EOS for ids in result.input_ids + result.labels)
    assert decode_texts(tiny_tokenizer, result.labels) == ["positive", "negative"]
    assert result.truncation.sources_cut == result.truncation.targets_cut == result.unfaithful_targets == 0
    assert result.tokens == sum(map(len, result.input_ids + result.labels))


def test_truncation_is_counted_and_keeps_the_end(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    whole = tokenize_examples(EXAMPLES, tiny_tokenizer, max_source_length=99, max_target_length=99)
    long = max(len(ids) for ids in whole.input_ids)
    cut = tokenize_examples(EXAMPLES, tiny_tokenizer, max_source_length=long - 1, max_target_length=2)
    assert cut.truncation.sources_cut == 1
    assert cut.truncation.targets_cut == 2
    assert cut.truncation.longest_source == long
    assert max(map(len, cut.input_ids)) == long - 1
    assert all(len(ids) == 2 and ids[-1] == EOS for ids in cut.labels)
    assert cut.truncation.line().startswith(f"cut: 50.0% of sources (longest {long} tokens), 100.0% of targets")


def test_targets_the_tokenizer_cannot_give_back(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = [example(n, "a", target) for n, target in enumerate(["日本", "日本", "profit", " profit "], start=1)]
    result = tokenize_examples(examples, tiny_tokenizer, max_source_length=9, max_target_length=9)
    assert result.unfaithful_targets == 1


def test_a_tokenizer_without_end_token_gets_one_in_targets(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    bare = PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer.backend_tokenizer.from_str(tiny_tokenizer.backend_tokenizer.to_str()),
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
    )
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    result = tokenize_examples(EXAMPLES, bare, max_source_length=64, max_target_length=3)
    assert all(ids[-1] == EOS and len(ids) <= 3 for ids in result.labels)
    assert all(EOS not in ids for ids in result.input_ids)
    with pytest.raises(DataError, match=r"1 source without a single token for this tokenizer \(row 7\)"):
        tokenize_examples([example(7, "")], bare, max_source_length=8, max_target_length=8)


def test_without_targets(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    result = tokenize_examples([example(1, "profit", "")], tiny_tokenizer, max_source_length=9, max_target_length=9)
    assert result.labels == [[]]


def test_fingerprint_tells_data_apart(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    def fingerprint(*examples: object) -> str:
        return tokenize_examples(examples, tiny_tokenizer, max_source_length=9, max_target_length=9).fingerprint  # type: ignore[arg-type]

    assert fingerprint(*EXAMPLES) == fingerprint(*EXAMPLES)
    assert len({fingerprint(*EXAMPLES), fingerprint(*reversed(EXAMPLES)), fingerprint(EXAMPLES[0])}) == 3


def test_real_sources_in_batches(tiny_tokenizer: PreTrainedTokenizerFast, data_root: Path) -> None:
    config = DataConfig(train_file=str(data_root / "e2e_nlg" / "train.jsonl"), validation_split=None)
    examples = prepare_data(config, seed=0).train[:1500]
    result = tokenize_examples(examples, tiny_tokenizer, max_source_length=100, max_target_length=100)
    one = tokenize_examples(examples[1200:1201], tiny_tokenizer, max_source_length=100, max_target_length=100)
    assert result.input_ids[1200] == one.input_ids[0]
    assert result.truncation.rows == 1500
    assert max(map(len, result.input_ids)) <= 100


@pytest.mark.parametrize(
    ("model_config", "limits"),
    [
        (BartConfig(max_position_embeddings=64), (64, 64)),
        (LEDConfig(max_encoder_position_embeddings=128, max_decoder_position_embeddings=32), (128, 32)),
        (SimpleNamespace(encoder=SimpleNamespace(max_position_embeddings=40), decoder=SimpleNamespace()), (40, None)),
        (T5Config(), (None, None)),
    ],
)
def test_lengths_beyond_the_positions_are_refused(model_config: object, limits: tuple[int | None, int | None]) -> None:
    for name, limit in zip(("max_source_length", "max_target_length"), limits, strict=True):
        fitting = {"max_source_length": 8, "max_target_length": 8}
        if limit is None:
            check_lengths(DataConfig(train_file="a.csv", **{**fitting, name: 100_000}), model_config)
            continue
        check_lengths(DataConfig(train_file="a.csv", **{**fitting, name: limit}), model_config)
        with pytest.raises(ConfigError) as error:
            check_lengths(DataConfig(train_file="a.csv", **{**fitting, name: limit + 1}), model_config)
        assert f"data.{name} {limit + 1} is more than the {limit} positions" in line_of(error)


def test_lengths_beyond_the_tokenizers_advice_are_remarked(tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    config = DataConfig(train_file="a.csv", max_source_length=600)
    assert check_lengths(config, T5Config(), tiny_tokenizer) == [
        "max_source_length 600 is beyond the 512 tokens the tokenizer advises"
    ]
