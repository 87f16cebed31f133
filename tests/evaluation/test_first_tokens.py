"""Decoding starts with what the decoder was given first in training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import SENTENCES
from tests.data.test_languages import LANGUAGES, SPANISH, data
from tests.families import TOKENIZERS, write_base
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from spectune.data.languages import language_codes, set_languages
from spectune.evaluation.first_tokens import set_first_tokens
from spectune.evaluation.generation import GenerationSettings, generation_config
from spectune.teacher_forcing import decoder_inputs

ALL = sorted({*TOKENIZERS} - {"led"})


def loaded(family: str, directory: Path) -> tuple[Any, Any]:
    write_base(family, directory, SENTENCES + SPANISH)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    set_languages(tokenizer, data(*LANGUAGES.get(family, (None, None))))
    base = AutoModelForSeq2SeqLM.from_pretrained(directory).eval()
    set_first_tokens(base, tokenizer)
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
    set_first_tokens(base, tokenizer)
    assert base.generation_config.forced_bos_token_id == codes["es_XX"]


def test_an_adapter_without_languages_keeps_its_bases_settings(tmp_path: Path) -> None:
    write_base("m2m_100", tmp_path, SENTENCES)
    base, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    base.generation_config.forced_bos_token_id = 7
    set_languages(tokenizer, data(), required=False)
    set_first_tokens(base, tokenizer)
    assert base.generation_config.forced_bos_token_id == 7
