"""The best constant is found by counting, and is the one that scoring every candidate finds."""

from __future__ import annotations

import pytest
import sacrebleu
from tests.constant_output import best_constant

REFERENCES = [
    ["The Mill is a cheap pub by the river.", "By the river, there is a cheap pub, The Mill."],
    ["The Vaults is a cheap pub near the river bank.", "The Vaults, a pub, is cheap and near the river bank."],
    ["The Eagle is an expensive restaurant in the city centre near the river."],
]
CANDIDATES = [
    "The Mill is a cheap pub by the river.",
    "The Vaults is a cheap pub near the river bank.",
    "An expensive restaurant is The Eagle.",
    "is is is is is is",
    "pub",
]


def score(output: str) -> float:
    streams = [[row[index] if index < len(row) else None for row in REFERENCES] for index in range(2)]
    return float(sacrebleu.corpus_bleu([output] * len(REFERENCES), streams).score)  # type: ignore[arg-type]


def test_it_is_the_best_of_all_scored_one_by_one() -> None:
    found, value = best_constant(CANDIDATES, REFERENCES)
    scores = {candidate: score(candidate) for candidate in CANDIDATES}
    assert found == max(scores, key=lambda candidate: scores[candidate])
    assert value == pytest.approx(scores[found])
