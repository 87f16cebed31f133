"""Train the starter's tokenizer: unigram pieces with a byte fallback, laid out by T5's conventions.

Ids: 0 ``<pad>``, 1 ``</s>``, 2 ``<unk>``, then learned pieces, then 256 byte pieces (so nothing is unknown), then the
sentinels ``<extra_id_0>`` … ``<extra_id_99>`` in ascending order. A text gets ``</s>`` appended, nothing before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
SENTINELS = 100
SPACE = "\u2581"
# Digits and punctuation stand alone, so that "12.5" or "rose," cost no piece of their own; an apostrophe stays in
# its word, so that "didn't" can become two meaningful pieces.
ALONE = Regex(SPACE + r"?[^" + SPACE + r"\p{L}\p{M}']")


def sentinel(index: int) -> str:
    """The text of the ``index``-th sentinel, as T5 writes it."""
    return f"<extra_id_{index}>"


def train_tokenizer(lines: Iterable[str], pieces: int = 6000) -> PreTrainedTokenizerFast:
    """Learn ``pieces`` pieces (special tokens and bytes included, sentinels not) from ``lines``.

    A small corpus yields fewer pieces than asked for; the ids stay contiguous.
    """
    learned = _learn(lines, pieces - 256)
    lowest = min(score for _, score in learned)
    # Byte pieces are for the fallback: a score below all others keeps "<0x41>" in a text from being read as one.
    bytes_ = [(f"<0x{value:02X}>", lowest - 20.0) for value in range(256)]
    return _wrap(models.Unigram(learned + bytes_, unk_id=2, byte_fallback=True))


def _learn(lines: Iterable[str], pieces: int) -> list[tuple[str, float]]:
    tokenizer = Tokenizer(models.Unigram())
    _set_text_rules(tokenizer)
    trainer = trainers.UnigramTrainer(
        vocab_size=pieces, special_tokens=[PAD, EOS, UNK], unk_token=UNK, max_piece_length=16, show_progress=False
    )
    tokenizer.train_from_iterator(lines, trainer)
    by_id = sorted(tokenizer.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    scores = dict(_scores(tokenizer))
    return [(piece, scores[piece]) for piece, _ in by_id]


def _scores(tokenizer: Tokenizer) -> list[tuple[str, float]]:
    import json

    stored: dict[str, Any] = json.loads(tokenizer.to_str())
    return [(piece, float(score)) for piece, score in stored["model"]["vocab"]]


def _set_text_rules(tokenizer: Tokenizer) -> None:
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always"),
            pre_tokenizers.Split(ALONE, behavior="isolated"),
        ]
    )


def _wrap(model: models.Unigram) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(model)
    _set_text_rules(tokenizer)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens([PAD, EOS, UNK])
    sentinels = [sentinel(index) for index in range(SENTINELS)]
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in sentinels])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, tokenizer.token_to_id(EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        extra_special_tokens=sentinels,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
