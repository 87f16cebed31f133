"""Removing dead triplets from memory: banks, gradients and the optimizer's moments shrink together.

A bank keeps being the same Parameter, so any optimizer over it goes on; its data is replaced by the surviving rows.
Everything is checked before anything is changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from spectune.errors import AdapterError


def check_optimizer(optimizer: Any, banks: Mapping[str, nn.Parameter]) -> None:
    """Refuse an optimizer whose state cannot be shrunk row by row.

    Raises:
        AdapterError: a bank it does not train, or a state that is neither a scalar nor of the bank's shape (such as
            Adafactor's factored moments).
    """
    inner = _inner(optimizer)
    trained = {id(parameter) for group in inner.param_groups for parameter in group["params"]}
    for name, parameter in banks.items():
        if id(parameter) not in trained:
            raise AdapterError(f"compact() got an optimizer that does not train {name}; pass the one that does")
        for key, value in inner.state.get(parameter, {}).items():
            if not (_scalar(value) or (isinstance(value, Tensor) and value.shape == parameter.shape)):
                kind = type(inner).__name__
                raise AdapterError(
                    f"compact() does not understand the state {key!r} of {kind}; use an elementwise optimizer "
                    "(AdamW, SGD, Lion) or leave the dead triplets in memory"
                )


def shrink(parameter: nn.Parameter, rows: Tensor, optimizer: Any | None) -> None:
    """Keep `rows` (numbers, in order) of a bank, of its gradient and of its optimizer state."""
    shape = parameter.shape
    kept = parameter.data.index_select(0, rows)
    # a loss that is still referenced keeps the gradient accumulator of the old shape alive; only a change of type
    # makes torch forget it
    parameter.data = kept.new_empty(0, dtype=torch.float64 if kept.dtype != torch.float64 else torch.float32)
    parameter.data = kept
    if parameter.grad is not None:
        parameter.grad = parameter.grad.index_select(0, rows)
    state = {} if optimizer is None else _inner(optimizer).state.get(parameter, {})
    for key, value in state.items():
        if isinstance(value, Tensor) and not _scalar(value) and value.shape == shape:
            state[key] = value.index_select(0, rows.to(value.device))


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or (isinstance(value, Tensor) and value.numel() == 1)


def _inner(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer itself, taken out of accelerate's wrapper."""
    inner = getattr(optimizer, "optimizer", optimizer)
    if not hasattr(inner, "state") or not hasattr(inner, "param_groups"):
        raise AdapterError(f"compact() needs a torch optimizer, got {type(optimizer).__name__}")
    return cast(torch.optim.Optimizer, inner)
