"""One training step, as DESIGN 2.3 writes it down, in free functions; nothing here reads the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from spectune.adapter.engine import AdaLoraEngine
from spectune.data.collation import IGNORE_INDEX
from spectune.data.loader import Window
from spectune.teacher_forcing import decoder_inputs
from spectune.training.kernels import Kernels
from spectune.training.optimizer import clip, set_learning_rate, step_unless
from spectune.training.padding import padding_known


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What a step needs beside model and data."""

    device: torch.device
    autocast: Callable[[], AbstractContextManager[Any]]
    label_smoothing: float
    max_grad_norm: float | None
    penalty_in_scores: bool
    call_order: Literal["paper", "peft"]
    kernels: Kernels = nullcontext
    reduce: Callable[[Sequence[Tensor]], None] | None = None
    """Sums tensors over all processes, in place; None with one process."""


@dataclass(frozen=True)
class StepResult:
    """Scalars on the device, read when due; `budget` where triplets were chosen."""

    loss: Tensor
    penalty: Tensor
    skipped: Tensor
    budget: int | None


def window_loss(model: Any, window: Window, options: StepOptions) -> Tensor:
    """Backward of the window's cross entropy over its target tokens; returns it, a scalar on the device.

    Every micro-batch is divided by the tokens of the whole window, so that k micro-batches of n rows give the gradient
    of one batch of k · n rows.
    """
    total = torch.zeros((), device=options.device)
    for batch in window.batches:
        with options.kernels():  # backward too: a checkpoint computes its layers again there
            loss = _cross_entropy(model, batch, options) / window.target_tokens
            if loss.requires_grad:  # not where layer dropout has left out every adapted layer
                loss.backward()
        total += loss.detach()
    return total


def _cross_entropy(model: Any, batch: dict[str, Tensor], options: StepOptions) -> Tensor:
    """Forward; the sum over the target tokens of a micro-batch, a scalar on the device."""
    moved = {name: tensor.to(options.device, non_blocking=True) for name, tensor in batch.items()}
    labels = moved.pop("labels")
    inputs = decoder_inputs(model.get_base_model(), moved.pop("decoder_labels", labels))
    with options.autocast(), padding_known(batch["attention_mask"], options.device):
        logits = model(**moved, decoder_input_ids=inputs, use_cache=False).logits
    return F.cross_entropy(
        logits.flatten(0, -2).float(),
        labels.flatten(),
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=options.label_smoothing,
    )


def _gradients(engine: AdaLoraEngine) -> list[Tensor]:
    """Gradients of all trainable parameters; a missing one (layer dropout, an expert without tokens) becomes zeros."""
    for parameter in engine.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return [cast(Tensor, parameter.grad) for parameter in engine.parameters()]


def training_step(
    model: Any,
    engine: AdaLoraEngine,
    optimizer: torch.optim.Optimizer,
    window: Window,
    *,
    step: int,
    rate: float,
    options: StepOptions,
) -> StepResult:
    """Gradient, penalty, importance, clipping, update, allocation.

    A step whose loss or gradient is not finite changes no weight, average or moment; the schedule goes on.

    Args:
        step: optimizer step, counted from 1.
        rate: its learning rate.
    """
    loss = window_loss(model, window, options)
    if options.reduce is not None:
        options.reduce([*_gradients(engine), loss])
    penalty, skip = before_update(
        engine,
        loss,
        max_grad_norm=options.max_grad_norm,
        penalty_in_scores=options.penalty_in_scores,
        call_order=options.call_order,
    )
    set_learning_rate(optimizer, rate)
    step_unless(optimizer, skip)
    budget = after_update(engine, step, skip, options.call_order)
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, penalty, skip, budget)


def before_update(
    engine: AdaLoraEngine,
    loss: Tensor | float,
    *,
    max_grad_norm: float | None,
    penalty_in_scores: bool,
    call_order: Literal["paper", "peft"],
) -> tuple[Tensor, Tensor]:
    """Between the window's backward and `optimizer.step()`: penalty, importance, clipping.

    Returns:
        The penalty, and whether the step has to be skipped since `loss` or a gradient is not finite; scalars on the
        device.
    """
    paper = call_order == "paper"
    if paper and not penalty_in_scores:
        engine.observe(~torch.isfinite(loss + torch.nn.utils.get_total_norm(_gradients(engine))))
    penalty = engine.add_orthogonality_gradient()
    gradients = _gradients(engine)
    norm = torch.nn.utils.get_total_norm(gradients)
    skip = ~torch.isfinite(loss + norm)
    if paper and penalty_in_scores:
        engine.observe(skip)
    clip(gradients, norm, max_grad_norm)
    return penalty, skip


def after_update(engine: AdaLoraEngine, step: int, skip: Tensor, call_order: Literal["paper", "peft"]) -> int | None:
    """After `optimizer.step()`, before the gradients go: allocation; returns the budget where triplets were chosen."""
    if call_order == "paper":
        return engine.reallocate(step)
    due = engine.schedule.allocates(step)
    engine.update_and_allocate(step, skip)
    return engine.schedule.budget(step, engine.initial_budget, engine.target_budget) if due else None
