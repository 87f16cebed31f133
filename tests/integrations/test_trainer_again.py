"""A second Trainer over one model, a loaded adapter, a batch size that is looked for: whose phases, which start."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapter.tiny import load_plain
from tests.integrations.trainer_world import PHASES, STEPS, arguments, collate, peft_model, train, trainer
from transformers import TrainerCallback

import spectune
from spectune import AdaLoraCallback
from spectune.errors import AdapterError, ConfigError

NOTHING_CHOSEN: dict[str, Any] = {"tinit": 0, "tfinal": 0, "deltaT": 1}


def phases(model: Any) -> tuple[int, int, int]:
    """Of the engine's schedule."""
    schedule = model.base_model.engine.schedule
    return schedule.total_step, schedule.tinit, schedule.tfinal


class BrokenOffError(Exception):
    """A cell that was stopped."""


class Stop(TrainerCallback):
    """Before the first step."""

    def on_step_begin(self, args: Any, state: Any, control: Any, **moment: Any) -> None:
        raise BrokenOffError


@pytest.mark.parametrize("chosen", [NOTHING_CHOSEN, PHASES], ids=["defaults", "chosen"])
@pytest.mark.parametrize("between", ["broken off", "constructed", "detached"])
def test_a_second_trainer_has_the_phases_of_the_person(between: str, chosen: Any, tmp_path: Path) -> None:
    """And not those that the first has worked out and written into the config for its own length."""
    model = peft_model("t5", **chosen)
    first = trainer(model, arguments(tmp_path), AdaLoraCallback(), *([Stop()] if between == "broken off" else []))
    if between == "broken off":
        with pytest.raises(BrokenOffError):
            train(first)
    elif between == "detached":
        train(first)
        spectune.detach(model)
    train(trainer(model, arguments(tmp_path, max_steps=2 * STEPS)))
    expected = (PHASES["tinit"], PHASES["tfinal"]) if chosen is PHASES else (3, 7)
    assert phases(model) == (2 * STEPS, *expected)
    assert model.base_model.engine.frozen


def test_a_config_that_a_person_has_changed_in_between_counts(tmp_path: Path) -> None:
    model = peft_model("t5", **NOTHING_CHOSEN)
    trainer(model, arguments(tmp_path))
    model.peft_config["default"].tinit = 4
    train(trainer(model, arguments(tmp_path)))
    assert phases(model) == (STEPS, 4, 4)


def test_phases_of_another_length_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A loaded adapter brings those of its run."""
    model = peft_model("t5", **NOTHING_CHOSEN)
    train(trainer(model, arguments(tmp_path)))
    assert phases(model) == (STEPS, 1, 4)
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_plain("t5", tmp_path / "adapter", is_trainable=True).train()
    with caplog.at_level(logging.WARNING, "spectune"):
        train(trainer(loaded, arguments(tmp_path, max_steps=2 * STEPS)))
    assert phases(loaded) == (2 * STEPS, 1, 4)
    assert f"tinit 1, tfinal 4 and deltaT 1 were laid out for {STEPS} steps, and the Trainer has 28" in caplog.text
    caplog.clear()
    again = load_plain("t5", tmp_path / "adapter", is_trainable=True).train()
    train(trainer(again, arguments(tmp_path, max_steps=2 * STEPS), AdaLoraCallback(tinit=0.1, tfinal=0.25)))
    assert "laid out" not in caplog.text


@pytest.mark.parametrize(
    ("named", "expected"), [({"deltaT": 3}, (1, 4)), ({"tinit": 5}, (5, 4)), ({"tfinal": 6}, (1, 6))]
)
def test_a_config_with_one_phase_has_the_defaults_for_the_others(named: Any, expected: Any, tmp_path: Path) -> None:
    model = peft_model("t5", **{**NOTHING_CHOSEN, **named})
    train(trainer(model, arguments(tmp_path)))
    assert phases(model) == (STEPS, *expected)
    assert model.base_model.engine.schedule.deltaT == named.get("deltaT", 1)


def out_of_memory_once(at: int) -> Any:
    """A collator that fails like a GPU with its `at`-th batch, once."""
    seen = []

    def found(rows: Any) -> Any:
        seen.append(len(rows))
        if len(seen) == at:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return collate(rows)

    return found


@pytest.mark.parametrize("at", [1, 9])
def test_a_batch_size_that_is_looked_for_begins_again(at: int, tmp_path: Path) -> None:
    """With the weights and the importance of the start: as if the smaller batch had been asked for."""
    args = arguments(tmp_path, auto_find_batch_size=True, per_device_train_batch_size=8)
    model = peft_model("t5")
    run = trainer(model, args)
    run.data_collator = out_of_memory_once(at)
    train(run)
    small = run._train_batch_size
    assert small < 8
    other = peft_model("t5")
    train(trainer(other, arguments(tmp_path, per_device_train_batch_size=small)))
    ours, theirs = model.base_model.engine, other.base_model.engine
    assert ours.ranks() == theirs.ranks()
    for here, there in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(here, there)
    with pytest.raises(AdapterError, match="was trained for 14 steps already"):
        train(run)


@pytest.mark.parametrize("twice", ["one of a kind", "the same"])
def test_two_callbacks_are_refused(twice: str, tmp_path: Path) -> None:
    one = AdaLoraCallback()
    run = trainer(peft_model("t5"), arguments(tmp_path), one, one if twice == "the same" else AdaLoraCallback())
    with pytest.raises(AdapterError, match="two AdaLoraCallbacks"):
        train(run)


def test_options_are_checked(tmp_path: Path) -> None:
    order: Any = "papr"
    with pytest.raises(ConfigError, match="call_order 'papr' is neither"):
        AdaLoraCallback(call_order=order)
    words: Any = "0.1"
    with pytest.raises(ConfigError, match=r"tinit '0\.1' is neither a fraction"):
        train(trainer(peft_model("t5"), arguments(tmp_path), AdaLoraCallback(tinit=words)))
