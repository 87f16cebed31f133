"""Words of texts in any script, for metrics whose own tokenizers know the Latin one alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = f"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff{_HAN}"  # Thai, Lao, Myanmar, Khmer, kana, Han
_HAN_ALONE = re.compile(f"[{_HAN}]")
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_PIECE = re.compile(f"[{_UNSPACED}]|[^\\s{_UNSPACED}]+")


def bleu_tokenizer(references: Iterable[str]) -> str:
    """sacrebleu's name for what tells words apart: `zh` or `char` where most letters are of a script without spaces.

    `13a`, its default, would make one word of each sentence there; `zh` is its own choice for Chinese, and `char`
    needs no dictionary (its choices for Japanese and Korean do). Korean has spaces.
    """
    letters = _letters(references)
    unspaced = [letter for letter in letters if _UNSPACED_LETTER.match(letter)]
    if 2 * len(unspaced) <= len(letters):
        return "13a"
    return "zh" if all(map(_HAN_ALONE.match, unspaced)) else "char"


def is_latin(references: Iterable[str]) -> bool:
    """Whether rouge-score's own tokenizer, which drops all but a-z and 0-9, sees at least half of the letters."""
    letters = _letters(references)
    return 2 * sum(letter.isascii() for letter in letters) >= len(letters)


class AnyScript:
    """A tokenizer for rouge-score: runs of letters, marks and digits, lower case; each letter without spaces alone."""

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        spaced = "".join(letter if _in_word(letter) else " " for letter in unicodedata.normalize("NFC", text).lower())
        return _PIECE.findall(spaced)


def _letters(texts: Iterable[str]) -> list[str]:
    return [letter for text in texts for letter in text if letter.isalpha()]


def _in_word(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN"
