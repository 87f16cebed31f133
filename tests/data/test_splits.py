"""Held-out rows, samples and repeats."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.helpers import example

from spectune.data.examples import Example
from spectune.data.splits import normalised, overlap, repeats, sample, train_validation_split
from spectune.errors import DataError

LABELS = st.sampled_from("ABC")
SOURCES = st.integers(0, 30).map(lambda number: f"text {number}")


def made(pairs: list[tuple[str, str]]) -> list[Example]:
    return [example(row, source, label, label) for row, (source, label) in enumerate(pairs, start=1)]


@given(
    st.lists(st.tuples(SOURCES, LABELS), min_size=2, max_size=80).filter(lambda rows: len({r[0] for r in rows}) > 1),
    st.floats(0.05, 0.6),
    st.integers(0, 5),
    st.booleans(),
)
def test_split_is_a_clean_partition(rows: list[tuple[str, str]], fraction: float, seed: int, stratify: bool) -> None:
    examples = made(rows)
    train, held = train_validation_split(examples, fraction, seed, stratify)
    assert train
    assert held
    assert sorted([*train, *held], key=lambda e: e.row) == examples
    assert [e.row for e in train] == sorted(e.row for e in train)
    assert overlap(train, held) == []
    assert (train, held) == train_validation_split(examples, fraction, seed, stratify)


@pytest.mark.parametrize("stratify", [False, True])
@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.33])
def test_share_is_near_the_fraction(fraction: float, stratify: bool) -> None:
    examples = made([(f"text {n}", "ABC"[n % 7 % 3]) for n in range(1000)])
    _, held = train_validation_split(examples, fraction, 0, stratify)
    assert len(held) == round(fraction * 1000)
    assert train_validation_split(examples, fraction, 1, stratify)[1] != held
    if stratify:
        for label in "ABC":
            share = sum(e.label == label for e in held) / sum(e.label == label for e in examples)
            assert share == pytest.approx(fraction, abs=0.005)


def test_rare_labels_stay_in_train() -> None:
    examples = made([(f"text {n}", "A") for n in range(20)] + [("rare", "B")])
    for seed in range(20):
        assert all(e.label == "A" for e in train_validation_split(examples, 0.5, seed, True)[1])


def test_case_and_space_do_not_part_twins() -> None:
    examples = made([("Same  Text", "A"), ("same text", "A"), ("other", "A"), ("third", "A")])
    for seed in range(10):
        train, held = train_validation_split(examples, 0.5, seed, True)
        assert {normalised(e.source) for e in train}.isdisjoint(normalised(e.source) for e in held)


def test_nothing_to_hold_out() -> None:
    with pytest.raises(DataError, match="one and the same source"):
        train_validation_split(made([("a", "A"), ("A", "B")]), 0.5, 0, True)


def test_sample_keeps_order_and_prefixes() -> None:
    examples = made([(str(n), "A") for n in range(50)])
    ten, twenty = sample(examples, 10, 3), sample(examples, 20, 3)
    assert [e.row for e in ten] == sorted(e.row for e in ten)
    assert {e.row for e in ten} < {e.row for e in twenty}
    assert sample(examples, None, 3) == sample(examples, 99, 3) == examples
    assert sample(examples, 10, 4) != ten


def test_repeats_and_conflicts() -> None:
    examples = made([("a", "A"), ("A ", "A"), ("a", "B"), ("b", "A")])
    assert repeats(examples) == ([2, 3], [3])
