"""Tiny base models of several families as directories: random weights, and tokenizers that were really trained.

The tokenizers are transformers' own classes over a vocabulary learnt from the texts given; nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tests.pieces import unigram_pieces
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartTokenizer,
    LEDConfig,
    M2M100Config,
    M2M100Tokenizer,
    MBart50Tokenizer,
    MBartConfig,
    MBartTokenizer,
    NllbTokenizer,
    PretrainedConfig,
    SeamlessM4TConfig,
    SeamlessM4TTokenizer,
    T5Config,
    T5Tokenizer,
)
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
_SIZES: dict[str, Any] = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "init_std": 0.2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
_T5: dict[str, Any] = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "initializer_factor": 2.0,
    "decoder_start_token_id": 0,
}
Tokenizers = dict[str, Callable[[Sequence[str], Path], Any]]


def bpe_pieces(texts: Sequence[str], *, byte_level: bool, size: int = 400) -> tuple[dict[str, int], list[Any]]:
    """Vocabulary and merges of a byte-pair encoding, the four special tokens first."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = (
        pre_tokenizers.ByteLevel(add_prefix_space=False) if byte_level else pre_tokenizers.Metaspace()
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else []
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, show_progress=False, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def _mbart(texts: Sequence[str], directory: Path) -> Any:
    codes = ("en_XX", "es_XX", "ro_RO")
    return MBartTokenizer(
        vocab=[*unigram_pieces(texts, SPECIAL, 300), *((code, 0.0) for code in codes), ("<mask>", 0.0)]
    )


def _mbart50(texts: Sequence[str], directory: Path) -> Any:
    # in sentencepiece's order, as a published one comes: the class puts in <pad> and the languages
    unk, bos, eos = ("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)
    return MBart50Tokenizer(vocab=[unk, bos, eos, *unigram_pieces(texts, SPECIAL, 300)[4:]])


def _nllb(texts: Sequence[str], directory: Path) -> Any:
    vocabulary, merges = bpe_pieces(texts, byte_level=False)
    return NllbTokenizer(vocab=vocabulary, merges=merges)


def _m2m_100(texts: Sequence[str], directory: Path) -> Any:
    directory.mkdir(parents=True, exist_ok=True)
    model, vocabulary = directory / "sentencepiece.bpe.model", directory / "vocab.json"
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=300, model_type="bpe", minloglevel=2
        )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    words = [*SPECIAL, *(pieces.id_to_piece(index) for index in range(3, pieces.get_piece_size()))]
    vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}), encoding="utf-8")
    codes = [f"__{code}__" for code in FAIRSEQ_LANGUAGE_CODES["m2m100"]]
    return M2M100Tokenizer(vocab_file=str(vocabulary), spm_file=str(model), additional_special_tokens=codes)


def _seamless(texts: Sequence[str], directory: Path) -> Any:
    vocabulary, merges = bpe_pieces(texts, byte_level=False)
    codes = ["__eng__", "__fra__", "__spa__"]
    return SeamlessM4TTokenizer(vocab=vocabulary, merges=merges, additional_special_tokens=codes)


def _bart(texts: Sequence[str], directory: Path) -> Any:
    vocabulary, merges = bpe_pieces(texts, byte_level=True)
    return BartTokenizer(vocab=vocabulary, merges=merges)


def _t5(texts: Sequence[str], directory: Path) -> Any:
    pieces = unigram_pieces(texts, SPECIAL, 300)
    return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *pieces[4:]], extra_ids=10)


TOKENIZERS: Tokenizers = {
    "mbart": _mbart,
    "mbart50": _mbart50,
    "nllb": _nllb,
    "m2m_100": _m2m_100,
    "seamless": _seamless,
    "bart": _bart,
    "led": _bart,
    "t5": _t5,
}


def _config(family: str, vocabulary: int) -> PretrainedConfig:
    if family == "t5":
        return T5Config(**_T5, vocab_size=vocabulary)
    if family == "seamless":
        names = {"hidden_size": "d_model", "initializer_range": "init_std"}
        shape = {name: value for name, value in _SIZES.items() if name not in names.values()}
        shape |= {name: _SIZES[other] for name, other in names.items()}
        return SeamlessM4TConfig(**shape, vocab_size=vocabulary, decoder_start_token_id=2, max_position_embeddings=128)
    sizes = _SIZES | {"vocab_size": vocabulary}
    if family == "led":
        return LEDConfig(
            **sizes, attention_window=16, max_encoder_position_embeddings=256, max_decoder_position_embeddings=128
        )
    if family in ("mbart", "mbart50"):
        start: dict[str, Any] = {"decoder_start_token_id": 2} if family == "mbart50" else {}
        return MBartConfig(**sizes, **start, scale_embedding=True, max_position_embeddings=128)
    if family in ("nllb", "m2m_100"):
        return M2M100Config(**sizes, decoder_start_token_id=2, max_position_embeddings=128)
    return BartConfig(**sizes, decoder_start_token_id=2, max_position_embeddings=128)


def write_base(family: str, directory: Path, texts: Sequence[str], **changes: Any) -> Path:
    """A base model of `family` (a key of `TOKENIZERS`) in `directory`; `changes` go into its configuration."""
    torch.manual_seed(0)
    tokenizer = TOKENIZERS[family](texts, directory)
    config = _config(family, len(tokenizer) + 8)  # published models have spare rows as well
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForSeq2SeqLM.from_config(config)
    if family == "bart":  # as the generation_config.json of facebook/bart-large says
        model.generation_config.forced_bos_token_id = 0
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def read_rows(path: Path, most: int) -> list[dict[str, Any]]:
    """The first rows of a file of JSON lines."""

    def rows() -> Iterator[dict[str, Any]]:
        with path.open(encoding="utf-8") as file:
            for _, line in zip(range(most), file, strict=False):
                yield json.loads(line)

    return list(rows())
