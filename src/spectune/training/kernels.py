"""What a training step on a CPU computes with in place of two functions of `torch.nn.functional`.

They reach transformers, PEFT and torch for the time of a step. Attention that a model writes out itself stays what it
is, but for its dropout.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional as F

from spectune.training.attention import scaled_dot_product_attention
from spectune.training.dropout import dropout
from spectune.training.exchange import Exchange

Kernels = Callable[[], AbstractContextManager[Any]]
"""What the forward and backward of a batch run in."""

exchanged = Exchange(F, dropout=dropout, scaled_dot_product_attention=scaled_dot_product_attention).inside


def training_kernels(device: torch.device) -> Kernels:
    """The faster functions for training on this device."""
    return exchanged if device.type == "cpu" else nullcontext
