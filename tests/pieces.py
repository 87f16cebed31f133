"""Pieces of a unigram tokenizer, the same in every process; the library's own trainer gives others each time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

_LONGEST = 4  # characters of a piece
SPACE = "▁"


def unigram_pieces(texts: Iterable[str], special: Sequence[str], size: int) -> list[tuple[str, float]]:
    """`size` pieces with their log probabilities: the special ones, all characters, and what shortens `texts` most.

    Args:
        texts: what the pieces are taken from; words are parted at white space.
        special: come first, with 0.
        size: at least the special ones and the characters.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        for word in (SPACE + word for word in text.split()):
            counts.update(word[start:end] for start in range(len(word)) for end in _ends(start, len(word)))
    characters = sorted(piece for piece in counts if len(piece) == 1)
    longer = sorted((piece for piece in counts if len(piece) > 1), key=lambda piece: (-_saved(piece, counts), piece))
    taken = [*characters, *longer[: size - len(special) - len(characters)]]
    total = sum(counts[piece] for piece in taken)
    return [*((name, 0.0) for name in special), *((piece, math.log(counts[piece] / total)) for piece in taken)]


def _ends(start: int, length: int) -> range:
    return range(start + 1, min(start + _LONGEST, length) + 1)


def _saved(piece: str, counts: Counter[str]) -> int:
    """Pieces that a text is shorter by."""
    return counts[piece] * (len(piece) - 1)
