"""Checkpoints of the Trainer: a resumed run is the run that was not stopped; the best model is within the budget."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapter.tiny import load_plain
from tests.integrations.trainer_world import FREEZE, ROWS, STEPS, arguments, peft_model, train, trainer
from torch import Tensor
from transformers import EarlyStoppingCallback, TrainerCallback

import spectune
from spectune import AdaLoraCallback
from spectune.errors import RunError

# in the warm-up, at and between allocations, at the freeze, after it
STOPS = [1, 4, 5, FREEZE, 12]


class StopAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **moment: Any) -> None:
        control.should_training_stop = state.global_step == self.step


def everything(model: Any, run: Any) -> dict[str, Tensor]:
    """Weights, averages, masks and the optimizer's moments."""
    found = dict(model.base_model.engine.state_dict()["tensors"])
    for number, entries in run.optimizer.state_dict()["state"].items():
        found |= {f"{number}.{name}": value for name, value in entries.items() if isinstance(value, Tensor)}
    return found


def shuffled(directory: Path, **changes: Any) -> Any:
    return arguments(
        directory, **{"train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 1, **changes}
    )


@pytest.fixture(scope="module", params=["t5", "bart"])
def whole(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, dict[str, Tensor]]:
    """A run with dropout and shuffling that was not stopped, and its checkpoints."""
    directory = tmp_path_factory.mktemp("whole")
    model = peft_model(request.param, dropout=0.1)
    run = trainer(model, shuffled(directory))
    train(run)
    return request.param, directory, everything(model, run)


@pytest.mark.parametrize("stop", STOPS)
def test_resumed_is_the_run_that_was_not_stopped(
    stop: int, whole: tuple[str, Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    family, directory, expected = whole
    shutil.copytree(directory / f"checkpoint-{stop}", tmp_path / f"checkpoint-{stop}")
    model = peft_model(family, dropout=0.1)
    run = trainer(model, shuffled(tmp_path))
    train(run, resume_from_checkpoint=True)
    found = everything(model, run)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_what_plain_peft_loads_is_the_checkpoint(whole: tuple[str, Path, dict[str, Tensor]]) -> None:
    family, directory, _ = whole
    for stop in STOPS:
        plain = load_plain(family, directory / f"checkpoint-{stop}")
        assert plain.peft_config["default"].total_step == STEPS


@pytest.mark.parametrize("name", ["default", "pairs"])
def test_the_best_model_is_one_after_the_freeze(name: str, tmp_path: Path) -> None:
    """With a metric that only gets worse, the first evaluation within the budget is the best."""
    model = peft_model("t5", name)
    args = arguments(
        tmp_path,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
        learning_rate=5e-2,
    )

    class Worse(TrainerCallback):
        def on_evaluate(self, args: Any, state: Any, control: Any, **moment: Any) -> None:
            moment["metrics"]["eval_loss"] = -float(state.global_step)

    run = trainer(model, args, AdaLoraCallback(), Worse(), EarlyStoppingCallback(10), eval_dataset=ROWS[:8])
    train(run)
    assert run.state.best_global_step == FREEZE + 1
    engine = model.base_model.engine
    assert engine.last_step == FREEZE + 1
    assert sum(engine.ranks().values()) == engine.target_budget


def test_what_cannot_be_resumed_is_refused_in_one_line(tmp_path: Path) -> None:
    run = trainer(
        peft_model("t5"), arguments(tmp_path, save_strategy="steps", save_steps=6), AdaLoraCallback(), StopAt(6)
    )
    with pytest.warns(UserWarning, match="ended at step 6, before the freeze at step 9"):
        train(run)
    whole = tmp_path / "checkpoint-6"

    def refused(match: str, spoil: Any, **changes: Any) -> None:
        broken = tmp_path / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(whole, broken)
        spoil(broken)
        with pytest.raises(RunError, match=match):
            train(trainer(peft_model("t5"), arguments(tmp_path, **changes)), resume_from_checkpoint=str(broken))

    refused("holds no directory spectune", lambda at: shutil.rmtree(at / "spectune"))
    refused("manifest.json", lambda at: (at / "spectune" / "manifest.json").unlink())
    refused("damaged", lambda at: (at / "spectune" / "state.safetensors").write_bytes(b"cut short"))
    refused("has no optimizer.pt", lambda at: (at / "optimizer.pt").unlink())
    refused("is of a run of 14 steps .* this one has 20", lambda at: None, max_steps=20)


def test_after_the_run_the_adapter_can_be_detached(tmp_path: Path) -> None:
    model = peft_model("t5")
    train(trainer(model, arguments(tmp_path)))
    spectune.detach(model)
    assert "restore" not in vars(model.base_model)
