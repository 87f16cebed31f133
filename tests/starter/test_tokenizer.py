"""The bundled tokenizer: offline, T5's layout, and no text is lost."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from spectune.starter.bundle import model_directory
from spectune.starter.tokenizer import SENTINELS, sentinel, train_tokenizer

TEXTS = (
    "Profit did not fall, but guidance was cut.",
    "ACME Corp. (USA) earned $12.5 million; costs: 3,400 - or 7 %?",
    "\"Don't,\" she said; 'tis well-known: e.g. x_y = [1, 2]!",
    "naïve café, 東京, ☃ and 🙂",
    "positive",
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(model_directory())
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


@pytest.mark.parametrize("text", TEXTS)
def test_decoding_gives_the_text_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.unk_token_id not in ids


def test_the_ids_follow_t5(tokenizer: PreTrainedTokenizerFast) -> None:
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    ids = tokenizer.convert_tokens_to_ids([sentinel(index) for index in range(SENTINELS)])
    assert ids == list(range(6000, 6100))
    assert tokenizer(sentinel(7))["input_ids"] == [6007, 1]


def test_a_target_is_tokenised_as_a_source_is(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer(text_target="neutral")["input_ids"] == tokenizer("neutral")["input_ids"]


def test_a_tiny_corpus_makes_a_complete_tokenizer() -> None:
    tiny = train_tokenizer(["the cat sat on the mat", "the dog sat on the log"] * 20, pieces=320)
    text = "Zebras & cats"
    assert tiny.decode(tiny(text)["input_ids"], skip_special_tokens=True) == text
    assert sorted(tiny.get_vocab().values()) == list(range(len(tiny)))
