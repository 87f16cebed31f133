"""The command on real public data with the bundled starter: a few hundred steps, generation, reload."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 900


def spectune(*arguments: str, data_root: Path | None = None) -> str:
    """Runs the command as a process of its own and returns what it printed."""
    # spinning threads of several processes stop one another on a busy machine
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
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


def assert_sound(summary: dict[str, Any]) -> None:
    assert summary["reload_identical"] is True
    assert summary["allocator_calls"] == summary["total_steps"]
    assert sum(summary["ranks"].values()) == 8 * len(summary["ranks"])
    assert len(set(summary["ranks"].values())) > 1


def test_train_evaluate_and_predict_agree_on_film_reviews(tmp_path: Path, data_root: Path) -> None:
    """No threshold: in a few hundred steps the starter is hardly better than chance here (LOG.md)."""
    printed, summary = train(
        "mr_sentiment",
        tmp_path / "run",
        data_root,
        "train.max_steps=150",
        "evaluation.eval_strategy=no",
        "evaluation.eval_on_start=false",
        "data.max_validation_samples=200",
    )
    assert_sound(summary)
    assert summary["test"]["rows"] == 1066
    assert summary["test"]["metrics"]["non_label_share"]["value"] <= 0.02
    for number, heading in enumerate(("Prepare data", "Configure AdaLoRA", "Load and adapt"), start=1):
        assert f"{number}. {heading}" in printed
    scored = json.loads(
        spectune(
            "evaluate",
            str(tmp_path / "run" / "adapter"),
            "--data",
            str(data_root / "mr_sentiment" / "test.jsonl"),
            "--json",
        )
    )
    assert scored["metrics"]["exact_match"] == summary["test"]["metrics"]["exact_match"]
    texts = tmp_path / "texts.txt"
    texts.write_text("a wonderful , moving film .\ndull , lifeless and far too long .\n", encoding="utf-8")
    lines = spectune("predict", str(tmp_path / "run" / "adapter"), str(texts)).splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts.read_text("utf-8").splitlines()
    assert {json.loads(line)["prediction"] for line in lines} <= {"positive", "negative"}


def test_restaurants_are_scored_against_all_their_references(tmp_path: Path, data_root: Path) -> None:
    """No threshold: 400 steps of the starter stay below the best constant sentence (LOG.md)."""
    _, summary = train(
        "e2e_nlg",
        tmp_path / "run",
        data_root,
        "train.max_steps=60",
        "evaluation.eval_strategy=no",
        "evaluation.max_new_tokens=40",
        "data.max_test_samples=100",
    )
    assert_sound(summary)
    bleu = summary["test"]["metrics"]["bleu"]
    assert "nrefs:var" in bleu["signature"]
    assert summary["metrics"]["eval_loss"]["value"] < summary["evaluations"][0]["eval_loss"]
