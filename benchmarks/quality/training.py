"""One run: the same loop, rows, loss, clipping and shape of the learning rate for every method."""

from __future__ import annotations

import contextlib
import math
import time
from itertools import islice
from typing import Any

import torch
from benchmarks.quality.methods import MAKERS, Method, Trainable
from benchmarks.quality.tasks import Ground

from spectune.adapter.initialization import start_from_gradient, start_orthonormal
from spectune.data.loader import BatchLoader, Window
from spectune.training.checkpoint import seed_all
from spectune.training.step import StepOptions, after_update, before_update, window_loss

WARM_UP = 0.05
"""Share of the run in which the learning rate rises; then it falls linearly to 0."""
MAX_GRAD_NORM = 1.0
INIT_WINDOWS = 8
"""As in `spectune train`."""


def run(
    ground: Ground, method: Method, *, rank: int, rate: float, seed: int, tests: bool, points: int = 0
) -> dict[str, Any]:
    """Train and score.

    Args:
        ground: the task.
        method: what is trained.
        rank: average rank a matrix after the freeze.
        rate: peak learning rate.
        seed: of the adapter's start and the order of rows.
        tests: score the test rows too.
        points: also score validation so many times on the way, at equal distances.

    Returns:
        Scores and facts, as JSON can hold them.
    """
    seed_all(seed)
    started, task = time.monotonic(), ground.task
    base = ground.fresh_base()
    loader = _loader(ground, base, seed)
    made = MAKERS[method.kind](base, method, rank, task.steps)
    if made.engine is not None:
        _start(ground, made, seed)
    curve: list[dict[str, float]] = []
    losses = [] if method.kind == "frozen" else _train(ground, made, loader, rate, points, curve)
    found: dict[str, Any] = {"validation": ground.score(made.model, ground.validation)}
    if tests:
        found["test"] = ground.score(made.model, ground.test)
    if curve:
        found["curve"] = curve
    if made.engine is not None:
        found["ranks"] = made.engine.ranks()
    tail = losses[-max(1, len(losses) // 10) :]
    return found | {
        "train_loss": sum(tail) / len(tail) if tail else None,
        "parameters": _saved(made),
        "seconds": round(time.monotonic() - started, 1),
    }


def _loader(ground: Ground, base: Any, seed: int) -> BatchLoader:
    size, padding = ground.task.batch_size, ground.padding_id(base)
    return BatchLoader(ground.train.tokenized, batch_size=size, seed=seed, pad_token_id=padding)


def _start(ground: Ground, made: Trainable, seed: int) -> None:
    assert made.engine is not None
    assert made.options is not None
    store, kind = made.engine.store, made.options.init
    if kind == "orthonormal":
        start_orthonormal(store)
    if kind == "gradient":
        windows = list(islice(iter(_loader(ground, made.model.get_base_model(), seed + 1)), INIT_WINDOWS))

        def backward() -> None:
            for window in windows:
                window_loss(made.model, window, _options(made))

        made.model.train()
        start_from_gradient(store, backward)


def _options(made: Trainable) -> StepOptions:
    options = made.options
    return StepOptions(
        device=torch.device("cpu"),
        autocast=contextlib.nullcontext,
        label_smoothing=0.0,
        max_grad_norm=MAX_GRAD_NORM,
        penalty_in_scores=options.penalty_in_scores if options else True,
        call_order=options.call_order if options else "paper",
    )


def _train(
    ground: Ground, made: Trainable, loader: BatchLoader, rate: float, points: int, curve: list[dict[str, float]]
) -> list[float]:
    """All steps; returns the cross entropy of each."""
    optimizer = torch.optim.AdamW(made.groups, lr=rate, betas=made.betas, weight_decay=0.0, fused=True)
    losses, steps = [], ground.task.steps
    made.model.train()
    for step, window in enumerate(islice(iter(loader), steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"] * _shape(step, steps)
        losses.append(float(_step(made, optimizer, window, step)))
        if not math.isfinite(losses[-1]):
            break
        if points and step < steps and step % (steps // points) == 0:
            curve.append({"step": step, **ground.score(made.model, ground.validation)})
            made.model.train()
    return losses


def _shape(step: int, steps: int) -> float:
    rise = max(1, round(WARM_UP * steps))
    return step / rise if step <= rise else 1.0 - (step - rise) / (steps - rise + 1)


def _step(made: Trainable, optimizer: Any, window: Window, step: int) -> torch.Tensor:
    """One optimizer step: ours, or the one that PEFT's users write, its penalty in the loss that the model returns."""
    if made.engine is not None:
        return _step_of_ours(made, optimizer, window, step)
    loss, cross_entropy = _losses(made.model, window)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(made.trained, MAX_GRAD_NORM)
    optimizer.step()
    made.allocate(step)
    optimizer.zero_grad(set_to_none=True)
    return cross_entropy


def _step_of_ours(made: Trainable, optimizer: Any, window: Window, step: int) -> torch.Tensor:
    assert made.engine is not None
    options = _options(made)
    loss = window_loss(made.model, window, options)
    order: dict[str, Any] = {"call_order": options.call_order}
    _, skip = before_update(
        made.engine, loss, max_grad_norm=MAX_GRAD_NORM, penalty_in_scores=options.penalty_in_scores, **order
    )
    optimizer.step()
    after_update(made.engine, step, skip, options.call_order)
    if made.engine.frozen and step == made.engine.schedule.freeze_step and options.call_order == "paper":
        made.engine.compact(optimizer)
    optimizer.zero_grad(set_to_none=True)
    return loss


def _losses(model: Any, window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    """What the model returns, and the cross entropy alone."""
    (batch,) = window.batches
    output = model(**batch, use_cache=False)
    logits, labels = output.logits.detach(), batch["labels"]
    return output.loss, torch.nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=-100)


def _saved(made: Trainable) -> int:
    """Numbers in the saved file: all trained ones, of AdaLoRA those of the triplets that live."""
    if made.engine is not None:
        costs, ranks = made.engine.store.costs(), made.engine.ranks().values()
        return sum(cost * rank for cost, rank in zip(costs, ranks, strict=True))
    layers = [one for one in made.model.modules() if getattr(one, "lora_E", None)]
    if not layers:
        return sum(parameter.numel() for parameter in made.trained)
    return sum(int((one.lora_E["default"] != 0).sum()) * (one.in_features + one.out_features + 1) for one in layers)
