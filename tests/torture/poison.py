"""NaN or infinity at any step: the run ends as if that step's batch had been read and left aside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tests.torture.world import World, directory, settings, states, train

from spectune.training import loop
from spectune.training import step as steps
from spectune.training.optimizer import set_learning_rate

loop_module: Any = loop  # its names are replaced below
step_module: Any = steps
POISONS = ("NaN loss", "infinite loss", "one infinite gradient", "NaN in every gradient")


def poisoned_runs(
    world: World, place: Path, kind: str, steps: Iterable[int], poisons: Iterable[str] = POISONS
) -> list[str]:
    """Poison one step of a run in each way and compare with the run that left the batch aside."""
    failures = []
    for step in steps:
        expected = _final(world, place, kind, _left_aside(step))
        for poison in poisons:
            if _final(world, place, kind, _poisoned(step, poison)) != expected:
                failures.append(f"{kind}: {poison} at step {step} leaves a trace")
    return failures


def _final(world: World, place: Path, kind: str, changed: Any) -> Any:
    run = settings(
        world,
        kind,
        place / "run",
        train={"save_steps": 40, "logging_steps": 40},
        evaluation={"eval_strategy": "no", "eval_steps": None},
    )
    with changed:
        train(run, overwrite=True)
    tensors, values = states(directory(run))[40]
    assert values["progress"]["loop"]["skipped"] == 1
    return tensors, values["engine"], values["random"], values["progress"]["loader"]


@contextmanager
def _poisoned(step: int, poison: str) -> Iterator[None]:
    window_loss, training_step = step_module.window_loss, loop_module.training_step
    now = [0]

    def poisoning(model: Any, window: Any, options: Any) -> torch.Tensor:
        loss: torch.Tensor = window_loss(model, window, options)
        if now[0] != step:
            return loss
        rows = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for row in rows:  # layer dropout may have left none
            row.grad = torch.zeros_like(row) if row.grad is None else row.grad
        if poison == "one infinite gradient":
            rows[0].grad.view(-1)[0] = math.inf
        elif poison == "NaN in every gradient":
            for row in rows:
                row.grad.fill_(math.nan)
        return loss if "gradient" in poison else torch.full_like(loss, math.nan if "NaN" in poison else math.inf)

    def counted(*rest: Any, **named: Any) -> Any:
        now[0] = named["step"]
        return training_step(*rest, **named)

    step_module.window_loss, loop_module.training_step = poisoning, counted
    try:
        yield
    finally:
        step_module.window_loss, loop_module.training_step = window_loss, training_step


@contextmanager
def _left_aside(step: int) -> Iterator[None]:
    """At `step` the batch goes through the model, as its dropout draws random numbers, and nothing comes of it."""
    training_step = loop_module.training_step

    def aside(model: Any, engine: Any, optimizer: Any, window: Any, **named: Any) -> Any:
        if named["step"] != step:
            return training_step(model, engine, optimizer, window, **named)
        loss = step_module.window_loss(model, window, named["options"])
        optimizer.zero_grad(set_to_none=True)
        set_learning_rate(optimizer, named["rate"])
        budget = engine.reallocate(step)
        return step_module.StepResult(loss, torch.zeros(()), torch.tensor(True), budget)

    loop_module.training_step = aside
    try:
        yield
    finally:
        loop_module.training_step = training_step
