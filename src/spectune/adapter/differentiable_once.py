"""Backward passes that are exact once, and raise when they are differentiated again.

`torch.autograd.function.once_differentiable` raises only where the incoming gradient has a graph and the second
derivative is asked for at every leaf. `torch.autograd.grad(penalty, some)` walks the paths to `some` alone, passes the
refusal by, and answers without the adapter's part. Here the refusal stands on each path: whatever a gradient was made
from is its input.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch
from torch import Tensor

Gradients = TypeVar("Gradients", bound=tuple[Tensor | None, ...])


def differentiable_once(gradients: Gradients, *origins: Tensor | None) -> Gradients:
    """The gradients as they are, or with `create_graph=True` as tensors that raise when differentiated.

    Args:
        gradients: what a backward returns.
        origins: every tensor that they were computed from, with its graph.
    """
    if not torch.is_grad_enabled():
        return gradients
    return cast(Gradients, cast(Any, _Refusal).apply(len(gradients), *gradients, *origins))


class _Refusal(torch.autograd.Function):
    """The first `count` of its tensors; its backward is an error."""

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if tensor is None else tensor.detach() for tensor in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "trying to differentiate twice through spectune's adapter, which is once_differentiable: detach the model, "
            "or use plain PEFT where second derivatives are needed"
        )
