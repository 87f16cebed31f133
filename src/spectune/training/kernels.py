"""What a training step on a CPU computes with in place of two functions of `torch.nn.functional`.

Models call both by their names there, in transformers as in PEFT and torch, so exchanging them for the time of a step
reaches every architecture and nothing outside the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch.nn import functional as F

from spectune.training.attention import scaled_dot_product_attention
from spectune.training.dropout import dropout

Kernels = Callable[[], AbstractContextManager[Any]]
"""What the forward and backward of a batch run in."""


def training_kernels(device: torch.device, dtype: torch.dtype) -> Kernels:
    """The faster functions for training.

    Args:
        device: where the step runs.
        dtype: that the base multiplies in.
    """
    if device.type != "cpu":
        return nullcontext
    attention = {"scaled_dot_product_attention": scaled_dot_product_attention} if dtype is torch.bfloat16 else {}
    return partial(_exchanged, {"dropout": dropout, **attention})


@contextmanager
def _exchanged(functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """For the process, as signals and random states are: one training at a time."""
    before = {name: getattr(F, name) for name in functions}
    for name, function in functions.items():
        setattr(F, name, function)
    try:
        yield
    finally:
        for name, function in before.items():
            setattr(F, name, function)
