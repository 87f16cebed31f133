"""What a person is told about the data."""

from __future__ import annotations

from tests.data.helpers import example

from spectune.data.report import SplitReport, label_notes
from spectune.data.wording import some


def test_row_numbers_are_cut() -> None:
    assert some(range(1, 12)) == "1, 2, 3, 4, 5, 6, 7, 8 and 3 more"


def test_repeats_are_told_with_their_conflicts() -> None:
    examples = [example(1, "a", "x"), example(2, "A", "x"), example(3, "a", "y")]
    lines = SplitReport.of("train", "a.csv", 4, examples, {"empty column 'text'": [4]}).lines()
    assert lines == [
        "train: 3 of 4 rows of a.csv",
        "train: 1 row left out, empty column 'text' (row 4)",
        "train: 2 rows repeat the source of an earlier one (rows 2, 3), 1 with another target (row 3)",
    ]


def test_many_labels_are_summed_up() -> None:
    examples = [example(n, f"text {n}", f"word {n % 12}", str(n % 12)) for n in range(30)]
    assert SplitReport.of("train", "a.csv", 30, examples, {}).lines()[1] == "train labels: 12, each on 2 to 3 rows"


def test_remarks_on_labels() -> None:
    assert label_notes({"0": 5, "1": 5}, {"0": "no", "1": "yes"}, named=True) == []
    assert label_notes({"0": 5}, {"0": "0"}, named=False)[0].startswith(
        "labels are numbers and are written as such (0)"
    )
    for label, key in {"0.5": "0.5", "007": "'007'", "-3": "-3", "1e3": "'1e3'"}.items():
        assert f"as in {{{key}: negative}}" in label_notes({label: 5}, {label: label}, named=False)[0]
    assert label_notes({"nan": 2, "b": 2}, {"nan": "nan", "b": "b"}, named=False) == []
    assert label_notes({"a": 3}, {"a": "a"}, named=True) == [
        "all rows have the label 'a': there is nothing to tell apart"
    ]
    assert label_notes({"a": 1}, {"a": "a", "b": "b"}, named=True) == ["1 label without a row: b"]
    assert label_notes({"a": 1, "A": 1}, {"a": "a", "A": "A"}, named=False) == [
        "label words that differ only in case: a, A"
    ]
    free = {f"text {n}": 1 for n in range(30)}
    assert label_notes(free, {name: name for name in free}, named=False) == [
        "30 labels on 30 rows: for free text set data.task to text2text"
    ]
