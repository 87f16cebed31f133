"""`evaluation.constrain_labels` through whole runs, and through `evaluate` and `predict` of what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import Run, journal

import spectune
from spectune import api
from spectune.cli import main
from spectune.errors import AdapterError, ConfigError
from spectune.training.finish import RunResult

LABELS = {"negative", "positive"}
CONSTRAINED = {"constrained_accuracy", "constrained_macro_f1"}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def assert_constrained(rows: list[dict[str, Any]]) -> None:
    assert rows
    for row in rows:
        assert row["constrained_prediction"] in LABELS
        assert set(row["label_probabilities"]) == LABELS
        values = list(row["label_probabilities"].values())
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1.0, abs=5e-6)


@pytest.fixture
def finished(run: Run) -> RunResult:
    return run(evaluation={"constrain_labels": True, "num_beams": 2}, data={"max_target_length": 16})


def test_a_run_reports_both_decodings(run: Run) -> None:
    result = run(
        base="bart",
        data={"max_source_length": 48, "max_target_length": 16},
        evaluation={
            "constrain_labels": True,
            "metrics": ["non_label_share", "accuracy"],
            "metric_for_best_model": "constrained_accuracy",
            "eval_strategy": "steps",
            "eval_steps": 7,
        },
    )
    assert set(result.metrics) == {"non_label_share", "accuracy", "eval_loss"} | CONSTRAINED
    rows = records(result.directory / "predictions.jsonl")
    assert_constrained(rows)
    right = sum(row["constrained_prediction"] == row["target"] for row in rows) / len(rows)
    assert result.metrics["constrained_accuracy"] == pytest.approx(right)
    assert result.metrics["constrained_accuracy"] >= result.metrics["accuracy"]
    signature = result.summary["metrics"]["constrained_accuracy"]["signature"]
    assert signature == "labels:2|decoding:label trie"
    assert result.summary["timings"]["constrain_labels"] > 0
    assert result.summary["reload_identical"] is True
    assert set(result.summary["reload"]["live"]) == {"non_label_share", "accuracy"}
    evaluations = [event for event in journal(result) if event["event"] == "evaluation"]
    assert all(set(event["metrics"]) >= CONSTRAINED for event in evaluations)


@pytest.mark.usefixtures("quick_proof")
def test_the_constrained_metric_chooses_the_checkpoint(run: Run) -> None:
    result = run(
        evaluation={
            "constrain_labels": True,
            "metric_for_best_model": "constrained_macro_f1",
            "eval_strategy": "steps",
            "eval_steps": 1,
        }
    )
    values = {row["step"]: row["constrained_macro_f1"] for row in result.summary["evaluations"] if row["step"] >= 8}
    assert values[result.summary["best_step"]] == max(values.values())
    assert result.metrics["constrained_macro_f1"] == pytest.approx(max(values.values()))


@pytest.mark.usefixtures("quick_proof")
def test_evaluate_and_predict_follow_the_run(
    finished: RunResult, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = {row["text"]: row for row in records(finished.directory / "predictions.jsonl")}
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(ours) + "\n", "utf-8")
    adapter = str(finished.adapter)

    def command(*arguments: str) -> str:
        capsys.readouterr()
        assert main(list(arguments)) == 0
        return capsys.readouterr().out

    written = [json.loads(line) for line in command("predict", adapter, str(texts)).splitlines()]
    assert_constrained(written)
    for row in written:
        run_said = ours[row["text"]]
        assert {key: row[key] for key in ("prediction", "constrained_prediction")} == {
            key: run_said[key] for key in ("prediction", "constrained_prediction")
        }
        assert row["label_probabilities"] == pytest.approx(run_said["label_probabilities"], rel=1e-3)
    plain = [json.loads(line) for line in command("predict", adapter, str(texts), "--no-constrain-labels").splitlines()]
    assert [set(row) for row in plain] == [{"text", "prediction"}] * len(ours)
    assert [row["prediction"] for row in plain] == [row["prediction"] for row in written]
    scored = json.loads(command("evaluate", adapter, "--data", str(table), "--json"))["metrics"]
    assert set(scored) >= CONSTRAINED
    plainly = json.loads(command("evaluate", adapter, "--data", str(table), "--json", "--no-constrain-labels"))
    assert set(plainly["metrics"]) == set(scored) - CONSTRAINED

    loaded = spectune.load(adapter)
    found = spectune.classify(loaded, list(ours))
    assert [label for label, _ in found] == [row["constrained_prediction"] for row in written]
    assert [sum(each.values()) for _, each in found] == pytest.approx([1.0] * len(ours), abs=1e-9)
    assert spectune.classify(loaded, []) == []
    assert spectune.evaluate(loaded, table, constrain_labels=False).constrained is None
    assert spectune.predict(loaded, list(ours)) == [row["prediction"] for row in written]


@pytest.mark.usefixtures("quick_proof")
def test_an_adapter_of_a_run_without_it_can_be_asked(run: Run, table: Path) -> None:
    result = run(data={"max_target_length": 16})
    assert not CONSTRAINED & set(result.metrics)
    assert all("constrained_prediction" not in row for row in records(result.directory / "predictions.jsonl"))
    assert set(spectune.evaluate(result.adapter, table, constrain_labels=True).metrics) >= CONSTRAINED
    assert_constrained(api.predict_file(result.adapter, str(table), constrain_labels=True)[0])


@pytest.mark.usefixtures("quick_proof")
def test_an_adapter_without_labels_is_refused_before_it_is_loaded(
    run: Run, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(data={"task": "text2text", "label_names": None})
    monkeypatch.setattr("spectune.evaluation.trained.load_adapter", None)
    for ask in (
        lambda: spectune.evaluate(result.adapter, table, constrain_labels=True),
        lambda: spectune.classify(result.adapter, ["profit rose"]),
    ):
        with pytest.raises(AdapterError, match="task is text2text, which has no labels"):
            ask()


def test_labels_of_the_same_tokens_are_refused_before_a_model_is_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("spectune.training.run.load_base", None)
    with pytest.raises(ConfigError, match=r"'the profit' and 'the profit rose' are the same 4 tokens .*length 4"):
        run(
            data={"label_names": {0: "the profit", 1: "the profit rose"}, "max_target_length": 4},
            evaluation={"constrain_labels": True},
        )
