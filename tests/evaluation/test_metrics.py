from __future__ import annotations

import random
import subprocess
import sys

import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer

from spectune.errors import ConfigError
from spectune.evaluation.label_scores import confusion
from spectune.evaluation.metric import Metric
from spectune.evaluation.metrics import (
    check_metrics,
    compute_metrics,
    default_metrics,
    higher_is_better,
    resolve_metrics,
)

LABELS = ["negative", "neutral", "positive"]
HYPOTHESES = ["the cat sat on the mat", "there is a dog in the garden", "", "profits were rising quickly in May"]
REFERENCES = [
    ["the cat is on the mat", "a cat sat on the mat"],
    ["there was a dog in the garden"],
    ["nothing here"],
    ["profit rose quickly in May", "in May profits rose", "profits were rising fast in May"],
]
TEXT_METRICS = ["exact_match", "rouge1", "rouge2", "rougeL", "bleu", "chrf"]


def score(name: str, predictions: list[str], references: list[list[str]], labels: list[str] | None = None) -> Metric:
    return compute_metrics([name], predictions=predictions, references=references, labels=labels)[name]


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "expected"),
    [
        ("exact_match", ["positive", " neutral\n", "Positive"], ["positive", "neutral", "positive"], 2 / 3),
        ("exact_match", [""], ["positive"], 0.0),
        ("exact_match", ["  "], [""], 1.0),
        ("accuracy", ["positive", "neutral", "junk", ""], ["positive", "negative", "neutral", "neutral"], 1 / 4),
        ("accuracy", ["junk"], ["junk"], 0.0),
        ("non_label_share", ["positive", "junk", "", " neutral "], ["positive"] * 4, 2 / 4),
        # negative: P 1/1 R 1/2, F 2/3; neutral: P 1/2 R 1/1, F 2/3; positive: P 0 R 0/1, F 0 (its row became junk).
        (
            "macro_f1",
            ["negative", "neutral", "neutral", "junk"],
            ["negative", "negative", "neutral", "positive"],
            (2 / 3 + 2 / 3 + 0) / 3,
        ),
        # A label that is neither target nor prediction has no F1 and does not pull the mean down.
        ("macro_f1", ["negative", "neutral"], ["negative", "neutral"], 1.0),
        ("macro_f1", ["junk"], ["negative"], 0.0),
        ("macro_f1", ["junk"], ["rubbish"], 0.0),
    ],
)
def test_hand_computed(name: str, predictions: list[str], targets: list[str], expected: float) -> None:
    assert score(name, predictions, [[target] for target in targets], LABELS).value == pytest.approx(expected)


def test_exact_match_takes_any_reference() -> None:
    assert score("exact_match", ["b", "c"], [["a", "b"], ["a"]]).value == 0.5
    assert score("exact_match", ["b", "c"], [["a", "b"], ["a"]]).signature.startswith("nrefs:var|")
    assert score("exact_match", ["b"], [["b"]]).signature.startswith("nrefs:1|")


def test_bleu_and_chrf_are_sacrebleus_own() -> None:
    streams = [[row[k] if k < len(row) else None for row in REFERENCES] for k in range(3)]
    bleu, chrf = sacrebleu.BLEU(), sacrebleu.CHRF()
    ours = compute_metrics(["bleu", "chrf"], predictions=HYPOTHESES, references=REFERENCES)
    assert ours["bleu"].value == bleu.corpus_score(HYPOTHESES, streams).score  # type: ignore[arg-type]
    assert ours["chrf"].value == chrf.corpus_score(HYPOTHESES, streams).score  # type: ignore[arg-type]
    assert ours["bleu"].signature == str(bleu.get_signature())
    assert ours["chrf"].signature == str(chrf.get_signature())
    assert "nrefs:var" in ours["bleu"].signature
    assert ours["bleu"].value > 0


def test_a_missing_reference_is_not_an_empty_one() -> None:
    padded = [[*row, *[""] * (3 - len(row))] for row in REFERENCES]
    assert score("bleu", HYPOTHESES, REFERENCES).value != score("bleu", HYPOTHESES, padded).value


def test_a_repeated_reference_changes_nothing() -> None:
    doubled = [row * 2 for row in REFERENCES]
    for name in TEXT_METRICS:
        assert score(name, HYPOTHESES, doubled).value == pytest.approx(score(name, HYPOTHESES, REFERENCES).value)


@pytest.mark.parametrize("name", ["rouge1", "rouge2", "rougeL"])
def test_rouge_is_the_mean_over_rows_of_the_best_reference(name: str) -> None:
    scorer = RougeScorer([name], use_stemmer=True)
    best = [
        max(scorer.score(reference, hypothesis)[name].fmeasure for reference in row)
        for hypothesis, row in zip(HYPOTHESES, REFERENCES, strict=True)
    ]
    metric = score(name, HYPOTHESES, REFERENCES)
    assert metric.value == pytest.approx(100 * sum(best) / len(best))
    assert "stemmer:porter" in metric.signature
    assert "rouge-score" in metric.signature


def test_rouge_stems() -> None:
    assert score("rouge1", ["rising profits"], [["rise profit"]]).value == pytest.approx(100.0)


def test_order_of_rows_does_not_matter() -> None:
    order = list(range(len(HYPOTHESES)))
    names = [*TEXT_METRICS, "accuracy", "macro_f1", "non_label_share"]
    before = compute_metrics(names, predictions=HYPOTHESES, references=REFERENCES, labels=["", "nothing here"])
    random.Random(3).shuffle(order)
    after = compute_metrics(
        names,
        predictions=[HYPOTHESES[row] for row in order],
        references=[REFERENCES[row] for row in order],
        labels=["", "nothing here"],
    )
    for name in names:
        assert after[name].value == pytest.approx(before[name].value, abs=1e-9)
        assert after[name].signature == before[name].signature
    assert list(after) == names


def test_perfect_predictions_reach_the_top() -> None:
    texts = ["net sales fell by ten per cent", "the outlook is negative for the year"]
    metrics = compute_metrics(TEXT_METRICS, predictions=texts, references=[[text] for text in texts])
    assert metrics.pop("exact_match").value == 1.0
    for metric in metrics.values():
        assert metric.value == pytest.approx(100.0)


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_empty_outputs_and_one_row(name: str) -> None:
    assert score(name, [""], [["something was expected here"]]).value == pytest.approx(0.0, abs=1e-9)
    assert score(name, ["a b c d e"], [["a b c d e"]]).value == pytest.approx(1.0 if name == "exact_match" else 100.0)


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], [["a"], ["b"]]), (["a", "b"], [["a"], []])])
def test_rows_that_cannot_be_scored_are_refused(predictions: list[str], references: list[list[str]]) -> None:
    with pytest.raises(ValueError, match="reference"):
        compute_metrics(["exact_match"], predictions=predictions, references=references)


def test_label_metrics_need_labels() -> None:
    with pytest.raises(ValueError, match="label words"):
        score("accuracy", ["a"], [["a"]])


def test_confusion_counts_other_outputs() -> None:
    table = confusion(["negative", "junk", " positive"], ["negative", "neutral", "neutral"], LABELS)
    assert table == {
        "rows": LABELS,
        "columns": [*LABELS, "other"],
        "counts": [[1, 0, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]],
    }


def test_confusion_shows_targets_that_are_no_label() -> None:
    table = confusion(["negative"], ["strange"], LABELS)
    assert table["rows"] == [*LABELS, "other"]
    assert table["counts"][3] == [1, 0, 0, 0]


def test_names_are_checked_with_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match="did you mean rougeL"):
        check_metrics(["ROUGE-L"], "summarization")
    with pytest.raises(ConfigError, match="did you mean exact_match"):
        check_metrics(["exactmatch"], "text2text")
    with pytest.raises(ConfigError, match="choose from"):
        check_metrics(["zzzzzz"], "text2text")
    with pytest.raises(ConfigError, match="task: classification"):
        check_metrics(["bleu", "macro_f1"], "translation")
    check_metrics(["eval_loss", "macro_f1"], "classification")


def test_every_task_has_metrics_that_pass_its_own_check() -> None:
    for task in ("classification", "summarization", "translation", "text2text"):
        check_metrics(default_metrics(task), task)
        assert resolve_metrics("auto", task) == default_metrics(task)
    assert default_metrics("classification")[0] == "exact_match"
    assert resolve_metrics(["chrf", "bleu", "chrf"], "translation") == ("chrf", "bleu")


def test_direction_of_better() -> None:
    assert not higher_is_better("eval_loss")
    assert not higher_is_better("non_label_share")
    assert higher_is_better("bleu")


def test_checking_names_imports_no_slow_library() -> None:
    code = (
        "import sys; from spectune.evaluation.metrics import check_metrics; check_metrics(['bleu'], 'translation');"
        "print(sorted({'torch', 'sacrebleu', 'sklearn', 'rouge_score', 'numpy'} & set(sys.modules)))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("text", "nearly", "words"),
    [
        ("我喜欢学习中文,今天天气很好。", "我喜欢学习中文，今天天气不好", "zh"),
        ("今日はいい天気ですね", "今日はいい天気です", "char"),
        ("Привет мир, сегодня хорошо и тепло", "Привет мир, сегодня хорошо и холодно", "13a"),
        ("नमस्ते दुनिया आज कैसे हो तुम", "नमस्ते दुनिया आज कैसे हो", "13a"),
        ("The cats, he said, are running fast", "The cats, he said, are running", "13a"),
    ],
)
def test_scripts_other_than_the_latin_one_are_scored(text: str, nearly: str, words: str) -> None:
    """rouge-score keeps a-z and 0-9 alone, and `13a` makes one word of a Chinese sentence: right outputs had 0."""
    names = ["rouge1", "rougeL", "bleu"]
    same, close, other = (
        compute_metrics(names, predictions=[output], references=[[text]]) for output in (text, nearly, "☃ 7")
    )
    for name in names:
        assert same[name].value == pytest.approx(100.0)
        assert 40.0 < close[name].value < 100.0
        assert other[name].value == pytest.approx(0.0)
        assert same[name].signature == close[name].signature
    assert f"tok:{words}|" in same["bleu"].signature
    assert ("tok:a-z0-9" in same["rouge1"].signature) == text.isascii()
