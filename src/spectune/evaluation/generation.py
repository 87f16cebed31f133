"""How texts are generated: the settings, and a generation config that holds nothing but them.

Base models bring decoding defaults of their own (facebook/bart-large-cnn: four beams, at least 56 tokens, no repeated
trigram), which would silently shape every number. They are reset to neutral; the tokens that make a model work
(decoder start, padding, end, forced first and last token) are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import GenerationConfig

from spectune.adapter.peft_inference import plain_arithmetic
from spectune.config import EvaluationConfig
from spectune.evaluation.decoding import base_of, evaluation_mode, generate_texts

__all__ = ["GenerationSettings", "generate_texts", "generation_config", "generation_model", "resolve_settings"]

_SPECIAL_TOKENS = (
    "decoder_start_token_id",
    "pad_token_id",
    "eos_token_id",
    "bos_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
)
_NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "min_length": 0,
    "early_stopping": False,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "encoder_no_repeat_ngram_size": 0,
    "num_return_sequences": 1,
    "return_dict_in_generate": False,
    # Said here, it holds even where gradient checkpointing has switched the model's own use_cache off.
    "use_cache": True,
}


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """Decoding settings of a run; lengths are in tokens."""

    num_beams: int = 1
    max_new_tokens: int | None = None
    """Without the start token; exactly one of this and `max_length` is given."""
    max_length: int | None = None
    """Of the generated sequence, the start token included."""
    length_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    batch_size: int = 32

    def __post_init__(self) -> None:
        if (self.max_new_tokens is None) == (self.max_length is None):
            raise ValueError("give exactly one of max_new_tokens and max_length")


def resolve_settings(config: EvaluationConfig, longest_target: int, limit: int | None = None) -> GenerationSettings:
    """Settings with `auto` resolved.

    Args:
        config: the run file's section.
        longest_target: tokens of the longest target, the end token included. Two more are granted, so that an output
            that runs on is seen as one and not cut into a right answer.
        limit: the most tokens that the decoder has positions for (`position_limit`), where it has a limit.
    """
    max_new_tokens: int | None = None
    if config.max_length is None and config.max_new_tokens == "auto":
        max_new_tokens = min(longest_target + 2, limit or longest_target + 2)
    elif config.max_length is None:
        max_new_tokens = int(config.max_new_tokens)
    return GenerationSettings(
        num_beams=config.num_beams,
        max_new_tokens=max_new_tokens,
        max_length=config.max_length,
        length_penalty=config.length_penalty,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        batch_size=config.per_device_eval_batch_size,
    )


def generation_config(model: nn.Module, settings: GenerationSettings) -> GenerationConfig:
    """The complete generation config: `settings`, the base's special tokens, all else neutral.

    Neutral values are written out where transformers has one, so that the saved file means the same to a person who
    passes it to `generate` on a base with other defaults.
    """
    base = base_of(model).generation_config
    entries = {
        **_family_entries(base),
        **{name: getattr(base, name) for name in _SPECIAL_TOKENS},
        **_NEUTRAL,
        "bad_words_ids": _special_bad_words(base),
        "num_beams": settings.num_beams,
        "max_new_tokens": settings.max_new_tokens,
        "max_length": settings.max_length,
        # Only beams have a length penalty; transformers refuses to save one without beams.
        "length_penalty": settings.length_penalty if settings.num_beams > 1 else 1.0,
        "no_repeat_ngram_size": settings.no_repeat_ngram_size,
    }
    return GenerationConfig.from_dict(entries)


@contextmanager
def generation_model(model: nn.Module) -> Iterator[nn.Module]:
    """The model to evaluate with, many calls in a row: in evaluation mode, the adapter at its cheapest exact path."""
    with evaluation_mode(model), plain_arithmetic(model):
        yield model


def _family_entries(base: GenerationConfig) -> dict[str, Any]:
    """Entries that only this family of models knows (language code tables and the like): needed, never taste."""
    common = set(GenerationConfig.from_dict({}).__dict__)
    return {name: value for name, value in base.__dict__.items() if name not in common and not name.startswith("_")}


def _special_bad_words(base: GenerationConfig) -> list[list[int]] | None:
    """Banned sequences that are one special token: Marian starts with padding and must never write it."""
    special: set[int] = set()
    for name in _SPECIAL_TOKENS:
        value = getattr(base, name)
        special.update(value if isinstance(value, list) else () if value is None else (value,))
    banned = [word for word in base.bad_words_ids or () if len(word) == 1 and word[0] in special]
    return banned or None
