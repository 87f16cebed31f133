"""Which of torch's attention kernels a training step takes on a CPU.

torch's fused attention multiplies head by head. Backward in bfloat16 each of these small products goes through oneDNN,
which takes longer to look its kernel up than to run it: 3.8 ms for 8 rows of 27 tokens and 12 heads where the products
of all heads at once take 1.2. Beyond some 200 tokens the fused one wins, and holds no probabilities
(`benchmarks/attention.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

LONGEST = 128
"""Tokens up to which the products of all heads at once are taken."""

Attention = Callable[[int], AbstractContextManager[Any]]
"""The longest side of a batch, in tokens → what its forward and backward run in."""


def as_it_comes(length: int) -> AbstractContextManager[Any]:
    """torch's own choice."""
    return nullcontext()


def training_attention(device: torch.device, dtype: torch.dtype) -> Attention:
    """The faster kernel for training.

    Args:
        device: where the step runs.
        dtype: that the base multiplies in.
    """
    slow = device.type == "cpu" and dtype is torch.bfloat16
    return _short_by_products if slow else as_it_comes


def _short_by_products(length: int) -> AbstractContextManager[Any]:
    return sdpa_kernel(SDPBackend.MATH) if length <= LONGEST else nullcontext()
