"""Labels as words."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.helpers import line_of, write

from spectune.data.labels import canonical_label, read_label_names
from spectune.data.verbalizer import Verbalizer
from spectune.errors import DataError

NAMES = {0: "negative", 1: "neutral", 2: "positive"}
words = st.text(min_size=1, max_size=8).filter(lambda text: text.strip() != "")


def test_the_words_stand_for_their_label_where_they_are_none_themselves() -> None:
    named = Verbalizer({"0": "negative", "1": "positive"})
    assert [named.label_of(value) for value in ("positive", " negative ", "neutral", 1)] == ["1", "0", None, "1"]
    swapped = Verbalizer({"0": "1", "1": "0"})
    assert [swapped.label_of(value) for value in ("0", "1")] == ["0", "1"]


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, "0"),
        ("0", "0"),
        (0.0, "0"),
        ("0.0", "0"),
        (Decimal("0.0"), "0"),
        (" 0 ", "0"),
        (-3, "-3"),
        ("-3.", "-3"),
        (0.5, "0.5"),
        ("1.50", "1.50"),
        ("007", "007"),
        (True, "true"),
        ("FALSE", "false"),
        ("very  good\n", "very good"),
        (None, None),
        ("  ", None),
        (float("nan"), None),
        (Decimal("nan"), None),
        (float("inf"), "inf"),
    ],
)
def test_canonical_labels(value: Any, label: str | None) -> None:
    assert canonical_label(value) == label


def test_spellings_of_one_label_have_the_same_words() -> None:
    verbalizer = Verbalizer.from_names(NAMES)
    assert {verbalizer.to_text(value) for value in (1, "1", 1.0, "1.0", True, "true")} == {"neutral"}
    assert Verbalizer.from_names({"true": "yes", "false": "no"}).to_text(0) == "no"


def test_words_back_to_labels() -> None:
    verbalizer = Verbalizer.from_names(NAMES)
    assert verbalizer.words == ("negative", "neutral", "positive")
    assert verbalizer.to_label(" positive\n") == "2"
    assert verbalizer.to_label("Positive") is None
    assert verbalizer.to_label("") is None


def test_a_list_counts_from_zero_or_names_its_own_labels() -> None:
    names = ["negative", "positive"]
    assert Verbalizer.from_names(names, {"0", "1"}).to_text(1) == "positive"
    assert Verbalizer.from_names(names, {"positive"}).labels == ("negative", "positive")
    assert Verbalizer.from_names(["1", "2", "3"], {"0", "1"}).to_text(0) == "1"


def test_values_themselves_in_order() -> None:
    assert Verbalizer.from_values({"10", "9", "b", "a"}).words == ("9", "10", "a", "b")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({}, "names no labels"),
        ({0: "good", 1: " good "}, "labels '0' and '1' are both written 'good'"),
        ({0: "very  good", 1: "very good"}, "both written 'very good'"),
        ({0: "good", 1: " "}, "label '1' has no words"),
        ({0: "good", "0.0": "bad"}, "names the label '0' twice"),
        ({0: 5}, "label 0 must be named by a text, not by 5"),
        (["a", "a"], "names the label 'a' twice"),
    ],
)
def test_no_bijection(names: Any, message: str) -> None:
    with pytest.raises(DataError) as error:
        Verbalizer.from_names(names)
    assert message in line_of(error)


def test_label_outside_the_map() -> None:
    with pytest.raises(DataError, match="label 3 is not among 0 → negative, 1 → neutral, 2 → positive"):
        Verbalizer.from_names(NAMES).to_text(3)


@given(st.dictionaries(st.one_of(st.integers(), words), words, min_size=1, max_size=8))
def test_any_map_is_refused_or_a_bijection_that_survives_json(names: dict[int | str, str]) -> None:
    try:
        verbalizer = Verbalizer.from_names(names)
    except DataError:
        return
    assert len(verbalizer) == len(names)
    for value, text in names.items():
        assert verbalizer.to_label(verbalizer.to_text(value)) == canonical_label(value)
        assert verbalizer.to_label(text) == canonical_label(value)
    assert Verbalizer.from_dict(json.loads(json.dumps(verbalizer.as_dict()))) == verbalizer


@pytest.mark.parametrize("state", [{}, {"version": 2, "words": {"0": "a"}}, {"version": 1, "words": {"0": 1}}])
def test_damaged_state(state: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        Verbalizer.from_dict(state)


def test_labels_json(tmp_path: Path) -> None:
    assert read_label_names(str(write(tmp_path / "labels.json", '["a", "b"]'))) == ["a", "b"]
    with pytest.raises(DataError, match="maps words to numbers"):
        read_label_names(str(write(tmp_path / "ids.json", '{"a": 0, "b": 1}')))
    with pytest.raises(DataError, match="must hold a list of label names"):
        read_label_names(str(write(tmp_path / "text.json", '"a"')))


def test_a_list_that_may_be_names_or_places_is_refused() -> None:
    """Stars of which no row has the highest: 1 to 4 are names of the list, and places in it."""
    stars = ["1", "2", "3", "4", "5"]
    with pytest.raises(DataError, match=r"a label 1 could be the name '1' or the name at place 1, '2' .*a mapping"):
        Verbalizer.from_names(stars, ["1", "2", "4"])
    assert Verbalizer.from_names(stars, ["1", "5"]).to_text(5) == "5"
    assert Verbalizer.from_names(stars, ["0", "4"]).to_text(4) == "5"
    assert Verbalizer.from_names(["0", "1"], ["0", "1"]).to_text(1) == "1"


def test_labels_that_are_numbers_come_in_their_order() -> None:
    """The second of two is the positive one, however a YAML mapping was written down."""
    assert Verbalizer.from_names({1: "yes", 0: "no"}).words == ("no", "yes")
    assert Verbalizer.from_names({True: "yes", False: "no"}).words == ("no", "yes")
    assert Verbalizer.from_names({"b": "x", "a": "y"}).words == ("x", "y")
