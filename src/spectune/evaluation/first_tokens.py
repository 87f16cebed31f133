"""Decoding starts as training does: the decoder's first token, and the language that every output begins with."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from spectune.data.languages import has_languages, target_marks
from spectune.teacher_forcing import decoder_inputs


def set_first_tokens(base: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write into the base's generation config what its decoder is given first when it is trained on this tokenizer.

    The start token is what the model's own rule puts in front of a target: mBART's is the target language, which the
    tokenizer writes behind the text. A language written in front of it (mBART-50, M2M100, NLLB) is forced as the first
    token of every output. `adapter/generation_config.json` is made from this, so it holds for plain transformers too.
    """
    if has_languages(tokenizer) and getattr(tokenizer, "tgt_lang", None) is None:
        return  # an adapter of somebody else's; the base's own settings say what there is to say
    ids, language = target_marks(tokenizer)
    ids = ids or [tokenizer.eos_token_id or 0]
    shifted = decoder_inputs(base, torch.tensor([ids], dtype=torch.long))
    settings = base.generation_config
    assert settings is not None
    settings.decoder_start_token_id = int(shifted[0, 0])
    if language is not None:
        settings.forced_bos_token_id = language if ids[0] == language else None
