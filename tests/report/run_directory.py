"""A run directory written by hand: a T5 of two layers a stack, twenty steps, three labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from spectune.yaml_text import write_yaml

MODULES = [
    *(f"encoder.block.{n}.layer.0.SelfAttention.{r}" for n in range(2) for r in "qkvo"),
    *(f"encoder.block.{n}.layer.1.DenseReluDense.{r}" for n in range(2) for r in ("wi", "wo")),
    *(f"decoder.block.{n}.layer.0.SelfAttention.{r}" for n in range(2) for r in "qkvo"),
    *(f"decoder.block.{n}.layer.1.EncDecAttention.{r}" for n in range(2) for r in "qkvo"),
    *(f"decoder.block.{n}.layer.2.DenseReluDense.{r}" for n in range(2) for r in ("wi", "wo")),
]
LABELS = ["negative", "neutral", "positive"]
ALLOCATIONS = range(5, 13)
SIGNATURE = "nrefs:1|strip:outer|case:mixed"


def rank(module: int, step: int) -> int:
    """A rank that falls with the step, more for some modules than for others."""
    return max(0, 12 - (step - 4) * (module % 3 + 1) // 2)


def config(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The run file's content."""
    made: dict[str, dict[str, Any]] = {
        "model": {"model_name_or_path": "starter", "dtype": "auto"},
        "data": {"train_file": "rows.csv", "task": "classification", "max_source_length": 24, "max_target_length": 8},
        "adapter": {"init_r": 12, "target_r": 8},
        "train": {"output_dir": "runs/hand", "learning_rate": 0.001, "seed": 42},
        "evaluation": {"num_beams": 1},
    }
    for section, values in changes.items():
        made[section] = made[section] | values
    return made


def journal() -> list[dict[str, Any]]:
    """All events of a run that came to its end."""
    schedule = {"total_step": 20, "tinit": 4, "tfinal": 8, "deltaT": 1, "init_r": 12, "target_r": 8}
    lengths = [[length, 3] for length in range(4, 25)]
    split = {
        "origin": "rows.csv",
        "rows_read": 66,
        "examples": 63,
        "dropped": {"empty text": 3},
        "repeated": 2,
        "conflicting": 1,
        "labels": dict.fromkeys(LABELS, 21),
        "rows": 63,
        "sources_cut": 5,
        "targets_cut": 0,
        "longest_source": 61,
        "longest_target": 3,
        "unfaithful_targets": 1,
        "tokens": 999,
        "source_lengths": lengths,
        "target_lengths": [[2, 40], [3, 23]],
    }
    events: list[dict[str, Any]] = [
        {
            "event": "start",
            "step": 0,
            "schedule": schedule,
            "budget": {"unit": "triplets", "initial": 12 * len(MODULES), "target": 8 * len(MODULES)},
            "parameters": {"trainable": 40_000, "total": 6_000_000},
            "matrices": MODULES,
            "steps_per_epoch": 10,
            "device": "cpu",
            "dtype": "float32",
            "versions": {"python": "3.11.7", "torch": "2.13.0"},
            "data": {
                "splits": {"train": split, "validation": split},
                "overlaps": {"validation in train": 4},
                "notes": [],
            },
        },
        evaluation(0, 0.0, candidate=False),
        {"event": "phase", "step": 1, "phase": "warm-up", "first": 1, "last": 4},
    ]
    for step in range(1, 21):
        if step in ALLOCATIONS:
            ranks = {name: rank(place, step) for place, name in enumerate(MODULES)}
            scores = {"low": -9.0, "high": -3.0, "kept": [0, 2, 5, 3], "cut": [4, 1, 0, 0], "zero": 2}
            events.append(
                {
                    "event": "allocation",
                    "step": step,
                    "budget": sum(ranks.values()),
                    "threshold": 10.0 ** (-7 - step / 10),
                    "ranks": ranks,
                    "scores": scores,
                }
            )
        live = sum(rank(place, min(step, 12)) for place in range(len(MODULES))) if step > 4 else 12 * len(MODULES)
        numbers = {"loss": 6.0 / step**2, "penalty": 0.1, "learning_rate": 1e-3 / step, "live": live, "spent": live}
        events.append({"event": "step", "step": step, "epoch": step / 10, "phase": "?", **numbers, "skipped": 0})
        if step % 10 == 0:
            events.append(evaluation(step, step / 20, candidate=step > 12))
    return events


def evaluation(step: int, value: float, *, candidate: bool) -> dict[str, Any]:
    """An evaluation's event."""
    return {
        "event": "evaluation",
        "step": step,
        "metrics": {"exact_match": value, "eval_loss": 2.0 - value},
        "signatures": {"exact_match": SIGNATURE, "eval_loss": "unit:nats/target token"},
        "seconds": 1.5,
        "candidate": candidate,
    }


def summary() -> dict[str, Any]:
    """What a finished run sums up to."""
    return {
        "metrics": {"exact_match": {"value": 2 / 3, "signature": SIGNATURE}},
        "reload_identical": True,
        "reload": {"identical": True, "rows": 6, "mismatches": 0},
        "ranks": {name: rank(place, 12) for place, name in enumerate(MODULES)},
        "parameters": {"trainable": 40_000, "trainable_after_freeze": 26_000, "total": 6_000_000, "saved": 26_100},
        "timings": {"train": 75.0, "tokens_per_second_tokenized": 100_000.5},
        "versions": {"python": "3.11.7", "torch": "2.13.0"},
        "best_step": 20,
        "total_steps": 20,
        "freeze_step": 12,
        "confusion": {
            "rows": LABELS,
            "columns": [*LABELS, "other"],
            "counts": [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 1, 0]],
        },
    }


def predictions() -> list[dict[str, Any]]:
    """Six rows, four of them right, one by its second reference."""
    pairs = [
        ("negative", "negative"),
        ("negative", "neutral"),
        ("neutral", "neutral"),
        ("neutral", " neutral "),
        ("positive", "negative"),
    ]
    rows = [{"text": f"sentence {n}", "target": t, "prediction": p} for n, (t, p) in enumerate(pairs, start=1)]
    return [*rows, {"text": "sentence 6", "target": "a", "references": ["a", "positive"], "prediction": "positive"}]


def make_run(root: Path, *, events: list[dict[str, Any]] | None = None, **changes: dict[str, Any]) -> Path:
    """Write the directory; `changes` are sections of the run file."""
    root.mkdir(parents=True)
    write_lines(root / "journal.jsonl", journal() if events is None else events)
    write_lines(root / "predictions.jsonl", predictions())
    (root / "summary.json").write_text(json.dumps(summary()), encoding="utf-8")
    (root / "run.yaml").write_text(write_yaml(config(**changes)), encoding="utf-8")
    return root


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
