"""The attention kernel of a training step: the same numbers from another one where that is faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tests.architectures.builders import build
from tests.architectures.trial import OPTIONS, attached, rows
from torch.utils._python_dispatch import TorchDispatchMode

import spectune
from spectune.data.assembly import Window
from spectune.training.attention import LONGEST, training_attention
from spectune.training.checkpointing import enable_checkpointing
from spectune.training.step import window_loss

CPU = torch.device("cpu")


class Fused(TorchDispatchMode):
    """Counts calls of the fused attention, forward and backward."""

    def __init__(self) -> None:
        cast(Any, super()).__init__()
        self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += "flash_attention" in func.overloadpacket.__name__
        return func(*args, **(kwargs or {}))


def gradients(dtype: torch.dtype, chosen: torch.dtype, checkpointing: bool = False) -> tuple[list[torch.Tensor], int]:
    """Of a BART held in `dtype`, with the kernel chosen for `chosen`, and calls of the fused attention."""
    torch.manual_seed(0)
    base = build("bart").to(dtype)
    model, engine = attached(base, spectune.default_targets(base))
    if checkpointing:
        enable_checkpointing(base, use_reentrant=False)
    with torch.no_grad():
        for parameter in engine.parameters():
            parameter.add_(0.05)
    options = replace(OPTIONS, attention=training_attention(CPU, chosen))
    with Fused() as fused:
        window_loss(model.eval() if not checkpointing else model.train(), Window([rows(0)], 15, 1, 4, 0.0), options)
    return [cast(torch.Tensor, parameter.grad) for parameter in engine.parameters()], fused.calls


def test_short_batches_in_bfloat16_take_the_products_of_all_heads() -> None:
    by_products, none = gradients(torch.bfloat16, torch.bfloat16)
    fused, some = gradients(torch.bfloat16, torch.float32)
    assert none == 0
    assert some > 0
    for one, other in zip(by_products, fused, strict=True):
        assert float(other.abs().max()) > 0
        assert float((one - other).norm() / other.norm()) < 0.02


def test_it_is_the_same_function() -> None:
    """In float32, where both are exact enough to compare."""
    by_products, none = gradients(torch.float32, torch.bfloat16)
    fused, some = gradients(torch.float32, torch.float32)
    assert (none, some > 0) == (0, True)
    torch.testing.assert_close(by_products, fused, rtol=1e-4, atol=1e-6)


def test_layers_that_are_computed_again_take_it_too() -> None:
    assert gradients(torch.bfloat16, torch.bfloat16, checkpointing=True)[1] == 0


@pytest.mark.parametrize(
    ("device", "dtype", "length", "expected"),
    [
        ("cpu", torch.bfloat16, LONGEST, False),
        ("cpu", torch.bfloat16, LONGEST + 1, True),
        ("cpu", torch.float32, 8, True),
        ("cuda", torch.bfloat16, 8, True),
    ],
)
def test_where_the_fused_one_stays(device: str, dtype: torch.dtype, length: int, expected: bool) -> None:
    with training_attention(torch.device(device), dtype)(length):
        assert torch.backends.cuda.flash_sdp_enabled() is expected
    assert torch.backends.cuda.flash_sdp_enabled()
