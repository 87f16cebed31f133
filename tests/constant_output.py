"""The constant output that scores best in BLEU: what a model must beat before its score means anything."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import sacrebleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

ORDER = 4
Ngrams = Counter[tuple[str, ...]]


def best_constant(candidates: Iterable[str], references: list[list[str]]) -> tuple[str, float]:
    """The candidate with the highest corpus BLEU when it is the output for every row, and its score by sacrebleu.

    Exact over all candidates: a constant matches an n-gram in as many rows as have it in a reference, so that rows need
    not be gone through for each candidate.
    """
    tokenize = Tokenizer13a()
    rows = [[tokenize(reference).split() for reference in row] for row in references]
    holding = _rows_holding(rows)
    lengths = [[len(reference) for reference in row] for row in rows]
    best = max(set(candidates), key=lambda text: (_bleu(tokenize(text).split(), holding, lengths), text))
    return best, _sacrebleu([best] * len(references), references)


def _rows_holding(rows: list[list[list[str]]]) -> Counter[tuple[tuple[str, ...], int]]:
    """(n-gram, k) → rows in which some reference holds the n-gram at least k times."""
    holding: Counter[tuple[tuple[str, ...], int]] = Counter()
    for row in rows:
        most: Ngrams = Counter()
        for reference in row:
            most |= _ngrams(reference)
        holding.update((ngram, times) for ngram, count in most.items() for times in range(1, count + 1))
    return holding


def _bleu(words: list[str], holding: Counter[tuple[tuple[str, ...], int]], lengths: list[list[int]]) -> float:
    if len(words) < ORDER:
        return 0.0
    matches = [0] * ORDER
    for ngram, count in _ngrams(words).items():
        matches[len(ngram) - 1] += sum(holding[ngram, times] for times in range(1, count + 1))
    if not all(matches):
        return 0.0
    totals = [(len(words) - order) * len(lengths) for order in range(ORDER)]
    precision = sum(math.log(match / total) for match, total in zip(matches, totals, strict=True)) / ORDER
    wanted = sum(min(row, key=lambda length: (abs(length - len(words)), length)) for row in lengths)
    return math.exp(precision + min(0.0, 1 - wanted / (len(words) * len(lengths))))


def _ngrams(words: list[str]) -> Ngrams:
    return Counter(tuple(words[i : i + n]) for n in range(1, ORDER + 1) for i in range(len(words) - n + 1))


def _sacrebleu(outputs: list[str], references: list[list[str]]) -> float:
    most = max(map(len, references))
    streams = [[row[index] if index < len(row) else None for row in references] for index in range(most)]
    return float(sacrebleu.corpus_bleu(outputs, streams).score)  # type: ignore[arg-type]
