from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet, tokenize_examples
from spectune.evaluation.evaluate import Evaluation, evaluate_examples, write_predictions
from spectune.evaluation.generation import GenerationSettings

SETTINGS = GenerationSettings(max_new_tokens=4, batch_size=2)
LABELS = ["negative", "neutral", "positive"]
SOURCES = ["profit rose", "net sales fell by ten per cent", "no change", "demand grew again this year", "the board"]


def make(sources: list[str], targets: list[str]) -> list[Example]:
    return [
        Example(row=row, source=source, target=target, label=None, references=(target,))
        for row, (source, target) in enumerate(zip(sources, targets, strict=True), start=1)
    ]


def tokens(examples: list[Example], tokenizer: PreTrainedTokenizerFast) -> TokenizedSet:
    return tokenize_examples(examples, tokenizer, max_source_length=32, max_target_length=8)


def evaluate(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, examples: list[Example]) -> Evaluation:
    return evaluate_examples(
        model,
        tokenizer,
        examples,
        tokens(examples, tokenizer),
        settings=SETTINGS,
        metric_names=["exact_match", "non_label_share"],
        labels=LABELS,
        task="classification",
    )


def test_one_evaluation(tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    first = evaluate(tiny_t5, tiny_tokenizer, make(SOURCES, ["neutral"] * 5))
    assert list(first.metrics) == ["exact_match", "non_label_share", "eval_loss"]
    assert first.metrics["exact_match"].value == 0.0
    assert first.metrics["non_label_share"].value == 1.0
    assert first.metrics["eval_loss"].value > 1.0
    assert "penalty:no" in first.metrics["eval_loss"].signature
    assert (first.rows, len(first.predictions)) == (5, 5)
    assert first.confusion is not None
    assert first.confusion["counts"][1] == [0, 0, 0, 5]
    assert first.seconds > 0

    # What the model writes, given as the target, is found again in its row.
    right = evaluate(tiny_t5, tiny_tokenizer, make(SOURCES, [*first.predictions[:4], "something else"]))
    assert right.predictions == first.predictions
    assert right.metrics["exact_match"].value == pytest.approx(0.8)


def test_rows_in_another_order_give_the_same_numbers(
    tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    examples = make(SOURCES, ["neutral", "negative", "neutral", "positive", "positive"])
    ahead, back = (evaluate(tiny_t5, tiny_tokenizer, rows) for rows in (examples, examples[::-1]))
    assert back.predictions[::-1] == ahead.predictions
    for name, metric in ahead.metrics.items():
        assert back.metrics[name].value == pytest.approx(metric.value, rel=1e-6)


def test_loss_is_optional_and_progress_is_told(
    tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    examples, told = make(SOURCES, ["a summary"] * 5), list[int]()
    result = evaluate_examples(
        tiny_t5,
        tiny_tokenizer,
        examples,
        tokens(examples, tiny_tokenizer),
        settings=SETTINGS,
        metric_names=["rouge1"],
        task="summarization",
        with_loss=False,
        on_batch=told.append,
    )
    assert list(result.metrics) == ["rouge1"]
    assert result.confusion is None
    assert sum(told) == 5


def test_several_references_count(tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    said = evaluate(tiny_t5, tiny_tokenizer, make(SOURCES, ["x"] * 5)).predictions
    examples = [
        Example(row=row, source=source, target="x", label=None, references=("x", said[row - 1]))
        for row, source in enumerate(SOURCES, start=1)
    ]
    assert evaluate(tiny_t5, tiny_tokenizer, examples).metrics["exact_match"].value == 1.0


def test_rows_must_match(tiny_t5: PreTrainedModel, tiny_tokenizer: PreTrainedTokenizerFast) -> None:
    examples = make(SOURCES, ["x"] * 5)
    with pytest.raises(ValueError, match="tokenised rows"):
        evaluate_examples(
            tiny_t5,
            tiny_tokenizer,
            examples[:3],
            tokens(examples, tiny_tokenizer),
            settings=SETTINGS,
            metric_names=[],
            task="text2text",
        )


def test_predictions_are_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    examples = [
        Example(row=1, source="line\u2028one", target="é", label=None, references=("é",)),
        Example(row=2, source="two", target="a", label=None, references=("a", "b")),
    ]
    write_predictions(path, examples, ["\u4f60", "b"])
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert lines == [
        {"text": "line\u2028one", "target": "é", "prediction": "\u4f60"},
        {"text": "two", "target": "a", "prediction": "b", "references": ["a", "b"]},
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_predictions(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("old\n")
    with pytest.raises(ValueError, match="zip"):
        write_predictions(path, make(["a", "b"], ["c", "d"]), ["only one"])
    assert path.read_text() == "old\n"
