"""The command on real public data with the bundled starter: a few hundred steps, generation, reload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.constant_output import best_constant

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 900
ONE_EVALUATION = ("evaluation.eval_strategy=no", "evaluation.eval_on_start=false")
FEW_VALIDATION_ROWS = ("data.max_validation_samples=100",)


def spectune(*arguments: str, data_root: Path | None = None) -> str:
    """Runs the command as a process of its own and returns what it printed."""
    # threads of several processes stop one another, and the suite runs two tests at a time
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if data_root is not None:
        environment["SPECTUNE_DATA"] = str(data_root)
    finished = subprocess.run(
        [sys.executable, "-m", "spectune", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        timeout=TIMEOUT_S,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def train(name: str, output: Path, data_root: Path, *overrides: str) -> tuple[str, dict[str, Any]]:
    """Trains an example with overrides; returns its output and its summary."""
    printed = spectune(
        "train", f"examples/starter/{name}.yaml", f"train.output_dir={output}", *overrides, data_root=data_root
    )
    return printed, json.loads((output / "summary.json").read_text("utf-8"))


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def assert_sound(summary: dict[str, Any]) -> None:
    assert summary["reload_identical"] is True
    assert summary["allocator_calls"] == summary["total_steps"]
    assert sum(summary["ranks"].values()) == 8 * len(summary["ranks"])
    assert len(set(summary["ranks"].values())) > 1


def test_film_reviews_are_told_apart(tmp_path: Path, data_root: Path) -> None:
    """Two classes, the larger 0.50 of the test rows; 260 steps see less than half of the training rows."""
    printed, summary = train(
        "mr_sentiment", tmp_path / "run", data_root, "train.max_steps=260", *ONE_EVALUATION, *FEW_VALIDATION_ROWS
    )
    assert_sound(summary)
    assert summary["test"]["rows"] == 1066
    assert summary["test"]["metrics"]["exact_match"]["value"] >= 0.60
    assert summary["test"]["metrics"]["non_label_share"]["value"] <= 0.02
    for number, heading in enumerate(("Prepare data", "Configure AdaLoRA", "Load and adapt"), start=1):
        assert f"{number}. {heading}" in printed
    assert_commands_agree(tmp_path / "run" / "adapter", summary, tmp_path, data_root)


def assert_commands_agree(adapter: Path, summary: dict[str, Any], tmp_path: Path, data_root: Path) -> None:
    """`evaluate` finds what the run found, `predict` keeps the order of the texts."""
    test_rows = data_root / "mr_sentiment" / "test.jsonl"
    scored = json.loads(spectune("evaluate", str(adapter), "--data", str(test_rows), "--json"))
    assert scored["metrics"]["exact_match"] == summary["test"]["metrics"]["exact_match"]
    texts = tmp_path / "texts.txt"
    texts.write_text("a wonderful , moving film .\ndull , lifeless and far too long .\n", encoding="utf-8")
    lines = [json.loads(line) for line in spectune("predict", str(adapter), str(texts)).splitlines()]
    assert [line["text"] for line in lines] == texts.read_text("utf-8").splitlines()
    assert [line["prediction"] for line in lines] == ["positive", "negative"]


def test_labels_alone_beside_the_free_decoding(tmp_path: Path) -> None:
    """A few steps on a piece of the bundled data, after which the free decoding still writes what is no label."""
    output = tmp_path / "run"
    small = ("data.max_train_samples=160", "data.max_validation_samples=48", "train.max_steps=8")
    spectune("train", "examples/demo.yaml", f"train.output_dir={output}", "evaluation.constrain_labels=true", *small)
    metrics = {
        name: metric["value"] for name, metric in json.loads((output / "summary.json").read_text())["metrics"].items()
    }
    rows, labels = read_rows(output / "predictions.jsonl"), {"negative", "neutral", "positive"}
    assert len(rows) == 48
    assert metrics["non_label_share"] == sum(row["prediction"] not in labels for row in rows) / 48 > 0
    assert {row["constrained_prediction"] for row in rows} <= labels
    assert all(abs(sum(row["label_probabilities"].values()) - 1) < 5e-6 for row in rows)
    assert metrics["constrained_accuracy"] == sum(row["constrained_prediction"] == row["target"] for row in rows) / 48
    assert metrics["constrained_accuracy"] >= metrics["accuracy"]


def test_restaurants_are_described_better_than_any_constant_does(tmp_path: Path, data_root: Path) -> None:
    """The best constant is the training sentence that scores highest against all references of the test rows."""
    _, summary = train(
        "e2e_nlg",
        tmp_path / "run",
        data_root,
        "train.max_steps=250",
        "data.max_test_samples=300",
        "evaluation.max_new_tokens=60",
        *ONE_EVALUATION,
    )
    assert_sound(summary)
    bleu = summary["test"]["metrics"]["bleu"]
    assert "nrefs:var" in bleu["signature"]
    targets = [row["target"] for row in read_rows(data_root / "e2e_nlg" / "train.jsonl")]
    rows = read_rows(tmp_path / "run" / "test_predictions.jsonl")
    references = [row.get("references", [row["target"]]) for row in rows]
    assert len(references) == 300
    _, constant = best_constant(targets, references)
    assert bleu["value"] >= constant + 5
