"""Random valid configurations: live rank equals the schedule at every allocation, and every run ends at its target.

Each one is a model, a schedule, the choices of the engine and a kind of gradient (ties, zeros, missing ones, numbers
that are not finite), trained by the product's own `training_step`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from tests.adapter.tiny import adapted, base, batch
from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.peft_host import attach
from spectune.adapter.schedule import RankSchedule
from spectune.config import TrainConfig
from spectune.data.loader import Window
from spectune.training.optimizer import make_optimizer
from spectune.training.step import StepOptions, training_step

GRADIENTS = ("plain", "zero", "tied", "missing", "not finite", "few values")
MODELS = ("t5", "gated_t5", "bart", "layerdrop")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One draw; the same seed gives the same."""

    seed: int
    model: str
    layers: int
    dtype: torch.dtype
    schedule: dict[str, Any]
    engine: dict[str, str]
    gradients: str
    call_order: Any
    penalty_in_scores: bool
    orth_reg_weight: float
    betas: tuple[float, float]
    dropout: float
    max_grad_norm: float | None
    label_smoothing: float
    micro_batches: int
    compact: bool


def draw(seed: int) -> Configuration:
    """The configuration of this number."""
    chance = random.Random(f"configuration/{seed}")
    total = chance.randint(1, 12)
    tinit = chance.randint(0, total - 1)
    target = chance.randint(1, 4)
    schedule: dict[str, Any] = {
        "total_step": total,
        "tinit": tinit,
        "tfinal": chance.randint(0, total - tinit - 1),
        "deltaT": chance.choice((1, 1, 2, 3, 7, 100)),
        "target_r": target,
        "init_r": target + chance.randint(0, 4),
    }
    return Configuration(
        seed=seed,
        model=chance.choice(MODELS),
        layers=chance.choice((1, 1, 2)),
        dtype=chance.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16)),
        schedule=schedule,
        engine={
            "importance": chance.choice(("elementwise", "triplet")),
            "pruning": chance.choice(("revivable", "permanent")),
        },
        gradients=chance.choice(GRADIENTS),
        call_order=chance.choice(("paper", "paper", "peft")),
        penalty_in_scores=chance.random() < 0.7,
        orth_reg_weight=chance.choice((0.0, 0.1, 0.5, 10.0)),
        betas=(chance.choice((0.01, 0.5, 0.85, 0.99)), chance.choice((0.01, 0.85, 0.99))),
        dropout=chance.choice((0.0, 0.0, 0.3)),
        max_grad_norm=chance.choice((None, 1.0)),
        label_smoothing=chance.choice((0.0, 0.1)),
        micro_batches=chance.choice((1, 1, 2)),
        compact=chance.random() < 0.7,
    )


def check_configuration(made: Configuration) -> None:
    """Train it; fails where an allocation keeps another number than the schedule says, or the end is not the target."""
    model, engine = _attached(made)
    optimizer = make_optimizer(engine.parameters(), TrainConfig(use_cpu=True))
    options = StepOptions(
        device=torch.device("cpu"),
        autocast=nullcontext,
        label_smoothing=made.label_smoothing,
        max_grad_norm=made.max_grad_norm,
        penalty_in_scores=made.penalty_in_scores,
        call_order=made.call_order,
    )
    schedule = engine.schedule
    for step in range(1, schedule.total_step + 1):
        result = training_step(model, engine, optimizer, _window(made, step), step=step, rate=1e-2, options=options)
        assert (result.budget is not None) == schedule.allocates(step), step
        if result.budget is not None:
            _check_budget(engine, schedule, step)
        if engine.frozen and made.compact and made.call_order == "paper":
            engine.compact(optimizer)
    assert engine.frozen
    assert engine.allocator_calls == schedule.total_step
    assert sum(engine.ranks().values()) == engine.target_budget
    assert all(bool(parameter.isfinite().all()) for parameter in engine.parameters())


def _check_budget(engine: AdaLoraEngine, schedule: RankSchedule, step: int) -> None:
    expected = schedule.budget(step, engine.initial_budget, engine.target_budget)
    assert engine.keep is not None
    assert int(engine.keep.sum()) == expected, (step, int(engine.keep.sum()), expected)
    assert sum(engine.ranks().values()) == expected, (step, engine.ranks())
    assert not engine.store.values.rows[~engine.keep].any(), "what is cut is zero"


def _attached(made: Configuration) -> tuple[Any, AdaLoraEngine]:
    share = 1.0 if made.gradients == "missing" else 0.5 if made.model == "layerdrop" else 0.0
    drop = {"encoder_layerdrop": share, "decoder_layerdrop": share} if share else {}
    plain = base("bart" if drop else made.model, made.layers, made.dtype, **drop)
    model = adapted(
        plain,
        lora_dropout=made.dropout,
        orth_reg_weight=made.orth_reg_weight,
        beta1=made.betas[0],
        beta2=made.betas[1],
        **made.schedule,
    )
    engine = attach(model, penalty="step", **made.engine)  # type: ignore[arg-type]
    torch.manual_seed(made.seed)
    for parameter, hook in zip(engine.parameters(), _hooks(made), strict=False):
        parameter.register_hook(hook)
    return model, engine


def _hooks(made: Configuration) -> Iterator[Any]:
    """What is done to the gradient of each bank."""
    chance = random.Random(f"gradients/{made.seed}")

    def spoil(gradient: Tensor) -> Tensor:
        if made.gradients == "zero":
            return torch.zeros_like(gradient)
        if made.gradients == "tied":
            return torch.ones_like(gradient)
        if made.gradients == "few values":
            return gradient.sign()
        if made.gradients == "not finite" and chance.random() < 0.3:
            return gradient * float(chance.choice(("nan", "inf")))
        return gradient

    while True:
        yield spoil


def _window(made: Configuration, step: int) -> Window:
    """Batches of an optimizer step."""
    batches = []
    for number in range(made.micro_batches):
        tokens = batch(made.micro_batches * step + number, rows=3, source=5, target=3)
        batches.append(tokens | {"attention_mask": torch.ones_like(tokens["input_ids"])})
    targets = sum(int(one["labels"].numel()) for one in batches)
    sources = sum(int(one["input_ids"].numel()) for one in batches)
    return Window(batches=batches, target_tokens=targets, source_tokens=sources, rows=3 * len(batches), epoch=0.0)
