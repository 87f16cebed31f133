"""Languages of multilingual tokenizers (mBART, M2M100, NLLB, PLBart, …): checked, set, and what decoding starts with.

Such a tokenizer marks a text with the code of its language; without one it takes English for source and target alike.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectune.config import DataConfig
from spectune.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CLASSES = ("MBart", "MBart50", "M2M100", "Nllb", "PLBart", "SeamlessM4T")
_PRESET = ("SeamlessM4T",)
"""Classes that have a target language before anybody has chosen one: every published tokenizer says French."""
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GIVE_BOTH = "give data.source_lang and data.target_lang"


def check_language_options(data: DataConfig, location: str) -> None:
    """What the tokenizer's class alone says of `source_lang` and `target_lang`, before anything is loaded.

    Args:
        location: the base model's directory; of a hub id nothing is said here, `set_languages` follows.

    Raises:
        ConfigError: languages for a tokenizer that has none, or a multilingual one without them.
    """
    try:
        found = json.loads((Path(location) / _TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if not isinstance(found, Mapping) or not isinstance(found.get("tokenizer_class"), str) or found.get("auto_map"):
        return
    kind = _kind(found["tokenizer_class"])
    multilingual = kind in _CLASSES
    if multilingual and data.source_lang is None and (found.get("tgt_lang") is None or kind in _PRESET):
        raise ConfigError(f"the base model's tokenizer ({found['tokenizer_class']}) is multilingual: {_GIVE_BOTH}")
    if not multilingual and data.source_lang is not None:
        raise ConfigError(_without_languages(found["tokenizer_class"]))


def set_languages(tokenizer: PreTrainedTokenizerBase, data: DataConfig, *, required: bool = True) -> None:
    """Make the tokenizer mark sources and targets with the run's languages; it is saved with them.

    Args:
        tokenizer: of the base model; one without languages stays as it is.
        data: the run's section; where it names none, the tokenizer's own setting holds.
        required: refuse a multilingual tokenizer for which nobody has named a target language.

    Raises:
        ConfigError: a code the tokenizer does not know (with the nearest ones), or languages where there are none.
    """
    if not has_languages(tokenizer):
        if data.source_lang is not None:
            raise ConfigError(_without_languages(type(tokenizer).__name__))
        return
    multilingual: Any = tokenizer
    codes = language_codes(tokenizer)
    if data.source_lang is None or data.target_lang is None:
        if required and (multilingual.tgt_lang is None or _kind(type(tokenizer).__name__) in _PRESET):
            known = f", of {', '.join(sorted(codes)[:6])}, …" if codes else ""
            name = type(tokenizer).__name__
            raise ConfigError(f"the base model's tokenizer ({name}) is multilingual: {_GIVE_BOTH}{known}")
        return
    for option, code in (("source_lang", data.source_lang), ("target_lang", data.target_lang)):
        _check_code(option, code, codes)
    multilingual.src_lang, multilingual.tgt_lang = data.source_lang, data.target_lang


def has_languages(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether texts are marked with the code of their language."""
    return hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")


def language_codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Code → token id, of the languages in the tokenizer's vocabulary; empty where it does not say."""
    multilingual: Any = tokenizer
    table = getattr(tokenizer, "lang_code_to_id", None)
    if not isinstance(table, Mapping):  # NLLB names its languages among the special tokens only
        named = [str(token) for token in getattr(tokenizer, "extra_special_tokens", None) or ()]
        table = {token: multilingual.convert_tokens_to_ids(token) for token in named}
    return {str(code): int(token) for code, token in table.items() if token not in (None, tokenizer.unk_token_id)}


def target_marks(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int | None]:
    """The tokens of an empty target, and which of them is the language's.

    Returns:
        `[language, end]` (mBART-50, M2M100, NLLB), `[end, language]` (mBART) or `[start, end]`, `[end]`, … with None.
    """
    ids, languages = _empty_target(tokenizer), _language_ids(tokenizer)
    ids = ids[_start_of(ids, languages, tokenizer.eos_token_id) :]
    return ids, next((token for token in ids if token in languages), None)


def start_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens in front of a target are the decoder's start, which the model's own rule puts there again.

    SeamlessM4T writes `[end, language, …, end]`, and its decoder starts with that end: a model that learnt to write
    it first would stop at once.
    """
    languages = _language_ids(tokenizer)
    return _start_of(_empty_target(tokenizer), languages, tokenizer.eos_token_id) if languages else 0


def _start_of(marks: list[int], languages: set[int], end: int | None) -> int:
    return int(len(marks) > 2 and marks[0] == marks[-1] == end and marks[1] in languages)


def _empty_target(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return list(tokenizer(text_target="", verbose=False)["input_ids"])


def _language_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    return set(language_codes(tokenizer).values()) if has_languages(tokenizer) else set()


def _kind(tokenizer_class: str) -> str:
    return tokenizer_class.removesuffix("Fast").removesuffix("Tokenizer")


def _check_code(option: str, code: str, codes: Mapping[str, int]) -> None:
    plain = {known.strip("_"): known for known in codes}  # PLBart: __python__ or python
    if code in codes or code in plain:
        return
    near = difflib.get_close_matches(code, plain, n=4, cutoff=0.3) or sorted(plain)[:4]
    raise ConfigError(f"data.{option} {code} is no language of the base model's tokenizer; nearest: {', '.join(near)}")


def _without_languages(kind: str) -> str:
    return (
        f"the base model's tokenizer ({kind}) has no languages: leave out data.source_lang and data.target_lang "
        "(T5 and Marian are told the language with data.source_prefix)"
    )
