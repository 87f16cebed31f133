"""Dropout on a CPU from fewer random bits.

torch draws 64 bits for each number it may drop, one after the other: 5 ns each, a twelfth of a training step of BART.
Sixteen bits tell the chance within 1/131,072, and four numbers share one draw.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_torchs = F.dropout
_LEVELS = 2**16
_LOWEST = -(2**63)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.dropout`, with p rounded to a multiple of 1/65,536 and other draws.

    Args:
        input: of any shape; what torch alone can do, it does (other devices, in place, under a compiler).
        p: chance of a number to become 0; the others are divided by what is kept on average.
        training: False returns the input.
        inplace: as torch's.
    """
    plain = input.device.type == "cpu" and input.layout is torch.strided and input.is_floating_point()
    if not (training and 0.0 < p < 1.0 and plain) or inplace or torch.compiler.is_compiling():
        return _torchs(input, p, training, inplace)
    return input * noise(input.shape, p, input.dtype, input.device)


def noise(shape: torch.Size, p: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """0 with a chance of p, else 1 / (1 - p); of `shape`, on a CPU, from torch's generator."""
    numbers, dropped = shape.numel(), round(p * _LEVELS)
    draws = torch.empty((numbers + 3) // 4, dtype=torch.int64, device=device).random_(_LOWEST, None)
    levels = draws.view(torch.int16)[:numbers].view(shape)
    kept = torch.ge(levels, dropped - _LEVELS // 2, out=torch.empty(shape, dtype=dtype, device=device))
    return kept.div_(1.0 - dropped / _LEVELS) if dropped < _LEVELS else kept.zero_()
