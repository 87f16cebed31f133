"""SQuAD's and GLUE's metrics over texts: their scripts' numbers, their libraries' numbers, what cannot be had."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
from sklearn.metrics import f1_score, matthews_corrcoef

from spectune.errors import ConfigError
from spectune.evaluation import metrics
from spectune.evaluation.answer_scores import normalized_answer
from spectune.evaluation.metric import Metric
from spectune.evaluation.metrics import check_metrics, check_rows, compute_metrics, constrained_metrics
from spectune.report import plots

TWO = ["not duplicate", "duplicate"]


def score(name: str, predictions: list[str], references: list[list[str]], labels: list[str] | None = None) -> Metric:
    return compute_metrics([name], predictions=predictions, references=references, labels=labels)[name]


@pytest.mark.parametrize(
    ("output", "references", "exact", "f1"),
    [
        ("The Eiffel Tower!", ["eiffel tower"], 100.0, 100.0),  # case, article, punctuation
        ("a  tower", ["the tower"], 100.0, 100.0),
        ("anthem", ["them"], 0.0, 0.0),  # articles are whole words
        ("in 1889", ["1889", "in the year 1889"], 0.0, 80.0),  # 2 of 2 against 2 of 3 words; the better reference
        ("red red blue", ["red"], 0.0, 50.0),  # a word counts as often as it is shared
        ("", ["1889"], 0.0, 0.0),
        ("the", ["a"], 100.0, 100.0),  # nothing but articles on both sides
        ("the", ["tower"], 0.0, 0.0),
        ("U.S.A.", ["usa"], 100.0, 100.0),
        ("well-known", ["well known"], 0.0, 0.0),  # the script joins what a hyphen parts
    ],
)
def test_answers_are_scored_as_squads_script_does(output: str, references: list[str], exact: float, f1: float) -> None:
    assert score("squad_exact_match", [output], [references]).value == exact
    assert score("squad_f1", [output], [references]).value == pytest.approx(f1)


def test_answers_are_a_mean_over_rows_and_say_how_many_references() -> None:
    found = score("squad_f1", ["red", "x", "blue sky"], [["red"], ["y"], ["sky", "the blue sky"]])
    assert found.value == pytest.approx(200 / 3)
    assert found.signature == "nrefs:var|refs:max|normalized:squad|case:lower"
    assert normalized_answer(normalized_answer("The  (first) answer, a test")) == "first answer test"


def drawn(labels: list[str], rows: int = 60) -> tuple[list[str], list[str]]:
    draw = random.Random(4)
    return [draw.choice(labels) for _ in range(rows)], [draw.choice(labels) for _ in range(rows)]


def test_f1_is_that_of_the_second_label() -> None:
    targets, predictions = drawn(TWO)
    ours = score("f1", predictions, [[text] for text in targets], TWO)
    assert ours.value == f1_score([text == TWO[1] for text in targets], [text == TWO[1] for text in predictions])
    assert "positive:duplicate|" in ours.signature
    assert score("f1", ["junk", "duplicate"], [["duplicate"], ["duplicate"]], TWO).value == pytest.approx(2 / 3)
    assert score("f1", ["junk"], [["not duplicate"]], TWO).value == 0.0


def test_matthews_is_scikit_learns_and_other_outputs_are_one_class() -> None:
    labels = ["a", "b", "c"]
    targets, predictions = drawn(labels)
    rows = [[text] for text in targets]
    assert score("matthews_correlation", predictions, rows, labels).value == matthews_corrcoef(targets, predictions)
    junk = [f"junk {row}" if row % 7 == 0 else text for row, text in enumerate(predictions)]
    one = ["junk" if row % 7 == 0 else text for row, text in enumerate(predictions)]
    assert score("matthews_correlation", junk, rows, labels).value == matthews_corrcoef(targets, one)
    assert score("matthews_correlation", targets, rows, labels).value == pytest.approx(1.0)
    assert score("matthews_correlation", ["a"] * 60, rows, labels).value == 0.0  # it says nothing, and is a number
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score("matthews_correlation", ["a", "a"], [["a"], ["a"]], labels).value == 0.0


def test_correlations_are_those_of_the_numbers() -> None:
    targets, written = ["0.0", "1.2", "3.8", "5.0", "2.4"], ["0.4", "1.0", " 3", "4.8\n", "4e0"]
    values = [float(text) for text in written]
    rows = [[text] for text in targets]
    pearson = np.corrcoef(values, [float(text) for text in targets])[0, 1]
    assert score("pearson", written, rows).value == pytest.approx(pearson)
    assert score("spearmanr", written, rows).value == pytest.approx(0.9)  # 1 − 6 Σd² / (n (n² − 1)) with d² = 1 + 1
    assert "no number:mean of targets" in score("pearson", written, rows).signature
    shifted = [str(3 - 2 * float(text)) for text in targets]
    assert score("pearson", shifted, rows).value == pytest.approx(-1.0)


@pytest.mark.parametrize("odd", ["junk", "", "nan", "inf", "1,5"])
def test_an_output_that_is_no_number_counts_as_the_mean(odd: str) -> None:
    rows = [["1"], ["2"], ["6"]]
    assert score("pearson", ["1", "2", odd], rows).value == score("pearson", ["1", "2", "3"], rows).value
    assert score("spearmanr", [odd] * 3, rows).value == 0.0


def test_rows_that_a_metric_cannot_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="positive label of two, and there are 3; use macro_f1"):
        check_rows(["f1"], ["a"], ["a", "b", "c"])
    with pytest.raises(ConfigError, match="spearmanr compares numbers, and the target 'good' is none"):
        check_rows(["bleu", "spearmanr"], ["1.5", "good"])
    with pytest.raises(ConfigError, match="matthews_correlation counts labels"):
        check_metrics(["matthews_correlation"], "text2text")
    check_rows(["pearson"], ["1.5", "-2"])
    check_rows(["f1", "exact_match"], ["a", "b"], ["a", "b"])


def test_the_report_draws_every_metric_in_its_own_range() -> None:
    labels, numbers = [str(number) for number in range(4)], ["0", "1", "2", "3", "1"]
    rows = [[text] for text in numbers]
    names = [name for name in metrics._METRICS if name not in ("rouge2", "bleu", "f1")]  # of longer texts, two labels
    perfect = compute_metrics(names, predictions=numbers, references=rows, labels=labels)
    perfect |= compute_metrics(["rouge2", "bleu"], predictions=["a b c d e"], references=[["a b c d e"]])
    perfect |= compute_metrics(["f1"], predictions=TWO, references=[[text] for text in TWO], labels=TWO)
    perfect |= constrained_metrics(TWO, [[text] for text in TWO], TWO)
    top = {name: 100.0 if name in plots.PERCENT else 1.0 for name in perfect} | {"non_label_share": 0.0}
    assert {name: metric.value for name, metric in perfect.items()} == pytest.approx(top)


def test_decoding_under_the_labels_keeps_its_two_metrics() -> None:
    found = constrained_metrics(["duplicate"], [["duplicate"]], TWO)
    assert {name: metric.value for name, metric in found.items()} == {
        "constrained_accuracy": 1.0,
        "constrained_macro_f1": 1.0,
    }
