"""What the callback does to the Trainer's optimizer: hold a step back, take the dead triplets out, begin again."""

from __future__ import annotations

import logging
from typing import Any

from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine
from spectune.errors import AdapterError

_log = logging.getLogger("spectune")


def hold_back(optimizer: Any, engine: AdaLoraEngine, skip: Tensor) -> None:
    """Skip the coming step where `skip` is true: on the device if the optimizer can, else with one read of it."""
    if optimizer.scaler is not None:
        return  # fp16: the scaler does it
    inner = optimizer.optimizer
    if getattr(inner, "_step_supports_amp_scaling", False):
        inner.found_inf, inner.grad_scale = skip.float(), None
    elif bool(skip):
        for parameter in engine.parameters():
            parameter.grad = None


def release(optimizer: Any) -> None:
    """Undo `hold_back`."""
    for name in ("found_inf", "grad_scale"):
        optimizer.optimizer.__dict__.pop(name, None)


def remove_dead(engine: AdaLoraEngine, optimizer: Any) -> int:
    """`engine.compact`, where the optimizer allows it; returns the triplets removed."""
    try:
        return engine.compact(optimizer)
    except AdapterError as reason:  # an optimizer that is not elementwise: the dead stay, masked
        _log.info("AdaLoRA: %s", reason)
        return 0


def begin_again(engine: AdaLoraEngine, optimizer: Any, start: dict[str, Any]) -> bool:
    """Weights, importance and moments as they were; false after the compaction, for what left memory is gone."""
    try:
        engine.load_state_dict(start)
    except AdapterError:
        _log.warning("AdaLoRA: triplets have left memory, so a smaller batch size cannot begin again")
        return False
    optimizer.optimizer.state.clear()
    return True
