"""The optimizer: AdamW, fused where the device has it, because a fused step can be skipped on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from spectune.config import TrainConfig


def make_optimizer(parameters: Sequence[nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over a few flat banks; the learning rate is set at every step by `set_learning_rate`."""
    return torch.optim.AdamW(
        parameters,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One rate for every group."""
    for group in optimizer.param_groups:
        group["lr"] = rate


@torch.no_grad()
def step_unless(optimizer: torch.optim.Optimizer, skip: Tensor) -> None:
    """One step of a fused optimizer, skipped on the device where `skip` (scalar bool) is true."""
    fused: Any = optimizer
    fused.found_inf = skip.float()
    fused.grad_scale = None
    optimizer.step()


@torch.no_grad()
def clip(gradients: Sequence[Tensor], norm: Tensor, largest: float | None) -> None:
    """Scale the gradients in place so that their total norm is at most `largest`; reads nothing from the device."""
    if largest is not None:
        torch._foreach_mul_(list(gradients), (largest / (norm + 1e-6)).clamp(max=1.0))
