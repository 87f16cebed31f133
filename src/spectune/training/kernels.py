"""What a training step on a CPU computes with in place of two functions of `torch.nn.functional`.

Models call them by their names there, in transformers as in PEFT and torch: exchanged for the time of a step, they
reach all that calls them and nothing after the step. Attention that a model writes out itself stays what it is, but
for its dropout.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F

from spectune.training.attention import scaled_dot_product_attention
from spectune.training.dropout import dropout

Kernels = Callable[[], AbstractContextManager[Any]]
"""What the forward and backward of a batch run in."""


def training_kernels(device: torch.device) -> Kernels:
    """The faster functions for training on this device."""
    return exchanged if device.type == "cpu" else nullcontext


_exchange = threading.Lock()
_inside = 0
_before: dict[str, Callable[..., Any]] = {}


@contextmanager
def exchanged() -> Iterator[None]:
    """Ours in `torch.nn.functional`, until the last of those that run inside, threads or not, has left."""
    global _inside
    with _exchange:
        if _inside == 0:
            for function in (dropout, scaled_dot_product_attention):
                _before[function.__name__] = getattr(F, function.__name__)
                setattr(F, function.__name__, function)
        _inside += 1
    try:
        yield
    finally:
        with _exchange:
            _inside -= 1
            if _inside == 0:
                for name, function in _before.items():
                    setattr(F, name, function)
