"""Decoding starts with what the decoder was given first in training, and ends with what targets end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SENTENCES
from tests.data.test_languages import LANGUAGES, SPANISH, data
from tests.families import TOKENIZERS, write_base
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertTokenizer,
    EncoderDecoderConfig,
    EncoderDecoderModel,
)

from spectune.data.languages import language_codes, set_languages
from spectune.data.tokenization import tokenize_targets
from spectune.evaluation.boundary_tokens import set_boundary_tokens
from spectune.evaluation.generation import GenerationSettings, generation_config
from spectune.teacher_forcing import decoder_inputs

ALL = sorted({*TOKENIZERS} - {"led", "seamless"})


def loaded(family: str, directory: Path) -> tuple[Any, Any]:
    write_base(family, directory, SENTENCES + SPANISH)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    set_languages(tokenizer, data(*LANGUAGES.get(family, (None, None))))
    base = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    set_boundary_tokens(base, tokenizer)
    return base, tokenizer


@pytest.mark.parametrize("family", ALL)
def test_decoding_starts_as_training(family: str, tmp_path: Path) -> None:
    base, tokenizer = loaded(family, tmp_path / "base")
    encoded = tokenizer(SENTENCES[:3], text_target=SPANISH, padding=True, return_tensors="pt")
    labels = encoded.pop("labels").masked_fill_(~encoded_mask(tokenizer), -100)
    trained = decoder_inputs(base, labels)
    config = generation_config(base, GenerationSettings(max_new_tokens=3))
    config.save_pretrained(tmp_path / "adapter")
    for beams in (1, 3):
        config.num_beams = beams
        written = base.generate(**encoded, generation_config=config)
        start = 2 if config.forced_bos_token_id is not None else 1
        assert torch.equal(written[:, :start], trained[:, :start])
    if family in LANGUAGES:
        target = language_codes(tokenizer)[LANGUAGES[family][1]]
        assert target in trained[0, :2].tolist()
        assert (config.decoder_start_token_id == target) == (family == "mbart")
        assert config.forced_bos_token_id == (None if family == "mbart" else target)
    else:
        assert config.forced_bos_token_id == (0 if family == "bart" else None)


def encoded_mask(tokenizer: Any) -> torch.Tensor:
    """1 for the tokens of the targets."""
    mask: torch.Tensor = tokenizer(text_target=SPANISH, padding=True, return_tensors="pt")["attention_mask"]
    return mask.bool()


def test_another_language_than_the_base_was_made_for(tmp_path: Path) -> None:
    """mbart-large-50-many-to-one forces English; a run to Spanish must not."""
    base, tokenizer = loaded("mbart50", tmp_path)
    codes = language_codes(tokenizer)
    base.generation_config.forced_bos_token_id = codes["en_XX"]
    set_boundary_tokens(base, tokenizer)
    assert base.generation_config.forced_bos_token_id == codes["es_XX"]


def test_an_adapter_without_languages_keeps_its_bases_settings(tmp_path: Path) -> None:
    write_base("m2m_100", tmp_path, SENTENCES)
    base, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    base.generation_config.forced_bos_token_id = 7
    set_languages(tokenizer, data(), required=False)
    set_boundary_tokens(base, tokenizer)
    assert base.generation_config.forced_bos_token_id == 7


def test_seamless_begins_with_its_end_token_once(tmp_path: Path) -> None:
    """Its tokenizer writes [end, language, …, end]; the first is the decoder's start, no label: outputs were empty."""
    base, tokenizer = loaded("seamless", tmp_path / "base")
    end, target = tokenizer.eos_token_id, language_codes(tokenizer)["__spa__"]
    assert tokenizer(text_target=SPANISH)["input_ids"][0][:2] == [end, target]
    for longest in (100, 6):
        rows = tokenize_targets(SPANISH, tokenizer, max_target_length=longest)
        assert all((row[0], row[-1], row.count(end)) == (target, end, 1) for row in rows)
        assert max(map(len, rows)) == longest or longest == 100
        assert decoder_inputs(base, torch.tensor(rows[:1]))[0, :2].tolist() == [end, target]
    config = generation_config(base, GenerationSettings(max_new_tokens=3))
    encoded = tokenizer(SENTENCES[:3], padding=True, return_tensors="pt")
    for beams in (1, 3):
        config.num_beams = beams
        assert base.generate(**encoded, generation_config=config)[:, :2].tolist() == [[end, target]] * 3


def test_what_targets_end_with_ends_an_output(tmp_path: Path) -> None:
    """A generation config without end, or with another one, as bases made by hand have: outputs only grew."""
    base, tokenizer = loaded("bart", tmp_path)
    assert base.generation_config.eos_token_id == tokenizer.eos_token_id == 2
    for known, expected in ((None, 2), (0, [0, 2]), ([0, 5], [0, 5, 2]), ([2, 5], [2, 5])):
        base.generation_config.eos_token_id = known
        set_boundary_tokens(base, tokenizer)
        assert base.generation_config.eos_token_id == expected


def test_berts_targets_end_with_what_is_called_no_end(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "night"]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    assert tokenizer.eos_token_id is None
    assert tokenize_targets(["good night"], tokenizer, max_target_length=8) == [[2, 5, 6, 3]]
    size: dict[str, Any] = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    parts = [BertConfig(**size, intermediate_size=8) for _ in range(2)]
    config = EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.decoder_start_token_id, config.pad_token_id = 2, 0
    base = EncoderDecoderModel(config)
    set_boundary_tokens(base, tokenizer)
    assert base.generation_config is not None
    assert base.generation_config.eos_token_id == 3
