"""Decoding starts and ends as training does: the decoder's first token, the language of every output, the end token."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from spectune.data.languages import has_languages, target_marks
from spectune.teacher_forcing import decoder_inputs


def set_boundary_tokens(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write into the base's generation config what a decoder that is trained on this tokenizer begins and ends with.

    The start token is what the model's own rule puts in front of a target: mBART's is the target language, which the
    tokenizer writes behind the text. A language written in front of it (mBART-50, M2M100, NLLB) is forced as the first
    token of every output. The token that targets end with ends an output, too, beside those of the base.
    `adapter/generation_config.json` is made from this, so it holds for plain transformers too.
    """
    if has_languages(tokenizer) and getattr(tokenizer, "tgt_lang", None) is None:
        return  # an adapter of somebody else's; the base's own settings say what there is to say
    settings = base.generation_config
    assert settings is not None
    ids, language = target_marks(tokenizer)
    _add_end(settings, _end_of_targets(tokenizer, ids, language))
    ids = ids or [tokenizer.eos_token_id or 0]
    shifted = decoder_inputs(base, torch.tensor([ids], dtype=torch.long))
    settings.decoder_start_token_id = int(shifted[0, 0])
    if language is not None:
        settings.forced_bos_token_id = language if ids[0] == language else None


def _end_of_targets(tokenizer: PreTrainedTokenizerBase, marks: list[int], language: int | None) -> int | None:
    """The tokenizer's end token, else what it writes last (BERT's [SEP], which is called no end)."""
    if isinstance(tokenizer.eos_token_id, int):
        return tokenizer.eos_token_id
    return next((token for token in reversed(marks) if token != language), None)


def _add_end(settings: GenerationConfig, end: int | None) -> None:
    """A base made by hand, or with a new tokenizer, may know no end, or another: its outputs would only grow."""
    known = settings.eos_token_id
    listed = list(known) if isinstance(known, list) else [] if known is None else [int(known)]
    if end is not None and end not in listed:
        settings.eos_token_id = [*listed, end] if listed else end
