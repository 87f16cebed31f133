"""The layers of the base shared out among processes: the run is the one of whole bases, whatever it asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.parallel.conftest import Config, Group, configuration, every_step, losses, same_end
from tests.training.conftest import tiny_model
from transformers import PreTrainedTokenizerFast

from spectune.formats.adapter_files import WEIGHTS


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """Directories of a T5 and a BART of two layers a stack: with dropout, and (`steady-`) without."""
    made = {}
    for kind in ("t5", "bart"):
        for name, dropout in ((kind, 0.1), (f"steady-{kind}", 0.0)):
            made[name] = tmp_path_factory.mktemp(name)
            tiny_model(kind, len(tiny_tokenizer), dropout, layers=2).save_pretrained(made[name])
            tiny_tokenizer.save_pretrained(made[name])
    return made


def run_both(
    group: Group, base: Path, table: Path, place: Path, **sections: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What two processes found, with whole bases (in `place/False`) and with shared-out ones (in `place/True`)."""
    found = []
    for fsdp in (False, True):
        config = configuration(base, table, place / str(fsdp), **sections)
        config["train"]["fsdp"] = fsdp
        found.append(group.run(2, config))
        assert [one["error"] for one in found[-1]] == [None, None], [one.get("message") for one in found[-1]]
    return found[0], found[1]


def check_the_same(place: Path, whole: list[dict[str, Any]], shared: list[dict[str, Any]], tolerance: float) -> None:
    """Losses, live sets, evaluations, predictions, weights; and plain PEFT reads the adapter."""
    assert losses(place / "True") == pytest.approx(losses(place / "False"), abs=tolerance)
    assert [one["live"] for one in shared] == [one["live"] for one in whole]
    ours, theirs = shared[0]["summary"], whole[0]["summary"]
    assert ours["reload_identical"]
    assert shared[1]["summary"] == ours
    assert texts(place / "True") == texts(place / "False")
    for mine, other in zip(ours["evaluations"], theirs["evaluations"], strict=True):
        assert mine == pytest.approx(other, abs=10 * tolerance)
    ours, theirs = (load_file(place / one / "adapter" / WEIGHTS) for one in ("True", "False"))
    assert ours.keys() == theirs.keys()
    assert max((ours[name] - theirs[name]).abs().max().item() for name in ours if ours[name].numel()) <= tolerance


def texts(directory: Path) -> list[tuple[str, str | None]]:
    """What was written for each row, free and under the labels."""
    rows = [json.loads(line) for line in (directory / "predictions.jsonl").read_text("utf-8").splitlines()]
    return [(row["prediction"], row.get("constrained_prediction")) for row in rows]


@pytest.mark.parametrize(
    ("base", "accumulation", "batch", "init"), [("t5", 1, 2, "gradient"), ("bart", 2, 32, "random")]
)
def test_the_same_run(
    group: Group,
    deep: dict[str, Path],
    table: Path,
    tmp_path: Path,
    base: str,
    accumulation: int,
    batch: int,
    init: str,
) -> None:
    """Nine rows to evaluate: five batches for two processes, or one, so that a process only takes part.

    Gradients of this BART's encoder are 1e-7, so that AdamW makes steps of their rounding once P and Q are not
    orthonormal: from the gradient its losses agree as well, its weights to 3e-4.
    """
    sections: dict[str, Any] = {
        "adapter": {"init": init},
        "train": {"gradient_accumulation_steps": accumulation},
        "evaluation": {"eval_strategy": "steps", "eval_steps": 5, "constrain_labels": True},
    }
    sections["evaluation"] |= {"per_device_eval_batch_size": batch, "eval_on_start": True}
    whole, shared = run_both(group, deep[f"steady-{base}"], table, tmp_path, **sections)
    check_the_same(tmp_path, whole, shared, tolerance=1e-5)
    assert [row["step"] for row in shared[0]["summary"]["evaluations"]] == [0, 5, 10, 14]

    assert [one["held"] for one in whole] == [[0, 0]] * 2
    assert sum(one["held"][0] for one in shared) == shared[0]["held"][1] == shared[1]["held"][1]
    for one in shared:
        assert one["held"][0] == pytest.approx(one["held"][1] / 2, rel=0.02)
        assert one["kinds"] == ["Tensor"]
        assert one["sent"] == [bytes_ + 4 for bytes_ in one["banks"]], "the gradients and the loss, as before"
    assert shared[0]["held"][1] > 0.5 * shared[0]["summary"]["parameters"]["total"], "most of the base"
    [start] = [event for event in journal(tmp_path / "True") if event["event"] == "start"]
    assert start["processes"] == 2
    assert start["sharded"]["bytes"] == 4 * shared[0]["held"][1]
    checkpoints = list((tmp_path / "True" / "checkpoints").glob("*/state.safetensors"))
    assert max(path.stat().st_size for path in checkpoints) < 4.5 * 4 * shared[0]["summary"]["parameters"]["trainable"]


def journal(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "journal.jsonl").read_text("utf-8").splitlines()]


ASKED: dict[str, dict[str, Any]] = {
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "checkpointing": {"train": {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}},
    "reentrant": {
        "train": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}},
        "model": {"dtype": "bfloat16"},
    },
    "inside": {
        "adapter": {"modules_to_save": ["final_layer_norm", "fc2"], "bias": "all", "target_modules": "attention"},
        "base": "bart",
    },
    "outside": {
        "adapter": {"trainable_token_indices": [3, 4], "pruning": "permanent", "init": "orthonormal"},
        "evaluation": {"num_beams": 3, "per_device_eval_batch_size": 4},
    },
}


@pytest.mark.parametrize("asked", ASKED)
def test_whatever_a_run_asks_for(group: Group, bases: dict[str, Path], table: Path, tmp_path: Path, asked: str) -> None:
    """One layer a stack, where no sum is in another order: the same to the bit, dropout included."""
    sections = dict(ASKED[asked])
    base = bases[sections.pop("base", "t5")]
    whole, shared = run_both(group, base, table, tmp_path, **sections)
    check_the_same(tmp_path, whole, shared, tolerance=0.0)
    assert shared[0]["drawn"] == whole[0]["drawn"]


def test_the_gradient_that_a_run_starts_from(group: Group, bases: dict[str, Path], table: Path, tmp_path: Path) -> None:
    whole, shared = run_both(group, bases["bart"], table, tmp_path, adapter={"init": "gradient"})
    assert shared[0]["gradients"] == whole[0]["gradients"]
    check_the_same(tmp_path, whole, shared, tolerance=0.0)


# ---- stopping and going on


@pytest.fixture(scope="module")
def unstopped(group: Group, deep: dict[str, Path], table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing stopped, with a checkpoint of every step."""
    output = tmp_path_factory.mktemp("unstopped") / "run"
    return every_step(group, stoppable(deep["t5"], table, output))


def stoppable(base: Path, table: Path, output: Path) -> Config:
    """Pruned for good, so that memory shrinks while the budget falls, too; evaluations in between."""
    config = configuration(base, table, output, evaluation={"eval_strategy": "steps", "eval_steps": 6})
    config["adapter"] |= {"pruning": "permanent", "deltaT": 1}
    config["evaluation"] |= {"per_device_eval_batch_size": 2}
    config["train"] |= {"fsdp": True}
    return config


@pytest.fixture
def config(deep: dict[str, Path], table: Path, tmp_path: Path) -> Config:
    return stoppable(deep["t5"], table, tmp_path / "run")


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13])
def test_resume_is_bitwise(group: Group, config: Config, unstopped: Path, step: int) -> None:
    """In the warm-up (1), while the budget falls (2 to 7), at the freeze (8) and after the compaction."""
    found = group.run(2, config, resume=str(unstopped / "checkpoints" / f"step-{step}"))
    assert [one["error"] for one in found] == [None, None], found
    assert same_end(config, unstopped)


def test_a_checkpoint_goes_on_without_sharding(group: Group, config: Config, unstopped: Path) -> None:
    config["train"] |= {"fsdp": False}
    [found] = group.run(1, config, resume=str(unstopped / "checkpoints" / "step-7"))
    assert found["error"] is None, found
    assert found["summary"]["reload_identical"]


@pytest.mark.parametrize("fault", [{"fault": ("SIGTERM", 5)}, {"fault_of_pass": ("SIGTERM", 9)}])
def test_sigterm_to_one_process_stops_all_with_a_checkpoint(
    group: Group, config: Config, unstopped: Path, fault: dict[str, Any]
) -> None:
    """Between two steps, and in the middle of the evaluation at step 6."""
    found = group.run(2, config, rank1=fault)
    assert [(one["error"], one["status"]) for one in found] == [("Interrupted", 143)] * 2, found
    assert [one["error"] for one in group.run(2, config, resume=True)] == [None, None]
    assert same_end(config, unstopped)


@pytest.mark.parametrize("fault", [{"fault": ("SIGKILL", 5)}, {"fault_of_pass": ("SIGKILL", 9)}])
def test_a_killed_process_ends_the_others(group: Group, config: Config, unstopped: Path, fault: dict[str, Any]) -> None:
    """Before a step's first gathering, and in the middle of an evaluation."""
    config["train"]["save_steps"] = 3
    first, second = group.run(2, config, rank1=fault)
    assert second == {"error": "died", "signal": 9}
    assert first["error"] == "RunError", first
    assert first["message"].startswith("another process of the run has ended; continue with: spectune train ")
    assert [one["error"] for one in group.run(2, config, resume=True)] == [None, None]
    assert same_end(config, unstopped)


@pytest.mark.parametrize("fault", [{"fault": ("memory", 3)}, {"fault_of_pass": ("memory", 7)}])
def test_a_process_that_fails_says_why_and_ends_all(group: Group, config: Config, fault: dict[str, Any]) -> None:
    found = group.run(2, config, rank1=fault)
    assert sorted(one["error"] for one in found) == ["ElsewhereError", "RunError"], found
    [message] = [one["message"] for one in found if one["error"] == "RunError"]
    assert message.startswith("out of memory in a")


def test_more_processes_than_rows_of_a_weight(group: Group, config: Config) -> None:
    """Three do not divide widths of 32: the last ones hold less."""
    found = group.run(3, config)
    assert [one["error"] for one in found] == [None] * 3, found
    held = [one["held"][0] for one in found]
    assert held[0] >= held[1] >= held[2] > 0
    assert sum(held) == found[0]["held"][1]
    assert found[0]["summary"]["reload_identical"]
    assert torch.isfinite(torch.tensor(losses(Path(config["train"]["output_dir"])))).all()
