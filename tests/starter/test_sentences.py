"""The bundled sentences: their rule, their balance, and that counting words does not solve them."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from spectune.starter.bundle import data_files
from spectune.starter.sentence_clauses import Clause, Label
from spectune.starter.sentence_frames import CONTRAST, SINGLE
from spectune.starter.sentence_words import MOVEMENTS, QUANTITIES, Split
from spectune.starter.sentences import SEED, rows, write


def read(path: Path) -> tuple[list[str], list[int]]:
    with path.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    return [record["text"] for record in records], [int(record["label"]) for record in records]


def test_the_bundled_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    write(tmp_path, SEED)
    for bundled in data_files():
        assert bundled.read_bytes() == (tmp_path / bundled.name).read_bytes()


def test_another_seed_gives_other_sentences() -> None:
    assert rows("validation", SEED) == rows("validation", SEED)
    assert rows("validation", SEED) != rows("validation", SEED + 1)


@pytest.mark.parametrize("split", get_args(Split))
def test_each_label_is_a_third_and_no_text_comes_twice(split: Split) -> None:
    texts, labels = zip(*rows(split, SEED), strict=True)
    assert set(Counter(labels).values()) == {len(labels) // 3}
    assert len(set(texts)) == len(texts)


def test_the_splits_share_no_text_and_no_frame() -> None:
    (train, _), (validation, _) = map(read, data_files())
    assert not set(train) & set(validation)
    for frames in (SINGLE, CONTRAST):
        assert not set(frames["train"]) & set(frames["validation"])


@pytest.mark.parametrize(
    ("quantity", "movement", "twist", "label"),
    [
        ("profit", "rose", "plain", Label.POSITIVE),
        ("costs", "rose", "plain", Label.NEGATIVE),
        ("debt", "fell", "more", Label.POSITIVE),
        ("profit", "fell", "denied", Label.POSITIVE),
        ("losses", "rose", "denied", Label.POSITIVE),
        ("sales", "rose", "denied", Label.NEGATIVE),
        ("losses", "fell", "less", Label.NEGATIVE),
        ("profit", "fell", "less", Label.POSITIVE),
        ("revenue", "rose", "unchanged", Label.NEUTRAL),
        ("revenue", "rose", "unknown", Label.NEUTRAL),
        ("the outlook", "worsened", "plain", Label.NEGATIVE),
        ("margins", "improved", "denied", Label.NEGATIVE),
    ],
)
def test_the_meaning_of_a_clause(quantity: str, movement: str, twist: str, label: Label) -> None:
    of_quantity = next(item for item in QUANTITIES if item.name == quantity)
    of_movement = next(item for item in MOVEMENTS if item.past == movement)
    assert Clause(of_quantity, of_movement, twist).label is label


def test_counting_words_and_pairs_of_words_does_not_solve_it() -> None:
    (train, train_labels), (validation, validation_labels) = map(read, data_files())
    counter = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\w+")
    counts = counter.fit_transform(train)
    for strength in (0.1, 1.0):
        baseline = LogisticRegression(C=strength, max_iter=3000).fit(counts, train_labels)
        assert baseline.score(counter.transform(validation), validation_labels) <= 0.75
