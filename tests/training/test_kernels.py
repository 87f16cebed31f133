"""What a training step on a CPU computes with: exchanged for the step alone, in every architecture."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from tests.architectures.builders import build
from tests.architectures.trial import OPTIONS, attached, rows
from torch.nn import functional as F

import spectune
from spectune.data.assembly import Window
from spectune.training import dropout
from spectune.training.attention import AttentionOfHeads
from spectune.training.checkpointing import enable_checkpointing
from spectune.training.kernels import training_kernels
from spectune.training.step import window_loss

CPU = torch.device("cpu")
NAMES = ("dropout", "scaled_dot_product_attention")


class Calls:
    """How often ours were called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of = dict.fromkeys(("attention", "noise"), 0)
        forward, noise = AttentionOfHeads.forward, dropout.noise

        def counted(*given: Any) -> Any:
            self.of["attention"] += 1
            return forward(*given)

        def drawn(*given: Any) -> Any:
            self.of["noise"] += 1
            return noise(*given)

        monkeypatch.setattr(AttentionOfHeads, "forward", staticmethod(counted))
        monkeypatch.setattr(dropout, "noise", drawn)


def gradients(kind: str, dtype: torch.dtype, *, drop: float = 0.0, reentrant: bool | None = None) -> list[torch.Tensor]:
    """Of one batch, through the kernels of `dtype`; `reentrant`: of the checkpoints, None without them."""
    torch.manual_seed(0)
    base: Any = build(kind).to(dtype)
    for module in base.modules():
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, drop)
        if isinstance(module, torch.nn.Dropout):
            module.p = drop
    model, engine = attached(base, spectune.default_targets(base))
    if reentrant is not None:
        enable_checkpointing(base, use_reentrant=reentrant)
    with torch.no_grad():
        for parameter in engine.parameters():
            parameter.add_(0.05)
    torch.manual_seed(1)
    options = replace(OPTIONS, kernels=training_kernels(CPU, dtype))
    window_loss(model.train(), Window([rows(0)], 15, 1, 4, 0.0), options)
    return [cast(torch.Tensor, parameter.grad) for parameter in engine.parameters()]


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_models_call_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch)
    gradients(kind, torch.bfloat16, drop=0.1)
    assert calls.of["noise"] > 0
    before = dict(calls.of)
    gradients(kind, torch.float32, drop=0.1)
    assert calls.of["noise"] > before["noise"]
    assert calls.of["attention"] == before["attention"], "float32 keeps torch's attention"


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_that_are_computed_again_drop_the_same(dtype: torch.dtype, reentrant: bool) -> None:
    """Re-entrant checkpoints add the encoder's gradients up in another order, which bfloat16 rounds by 0.003."""
    once = gradients("bart", dtype, drop=0.3)
    again = gradients("bart", dtype, drop=0.3, reentrant=reentrant)
    assert float(once[0].abs().max()) > 0
    most = 0.02 if reentrant and dtype is torch.bfloat16 else 1e-6
    for one, other in zip(once, again, strict=True):
        assert float((one - other).norm() / one.norm()) <= most


def test_they_are_there_for_the_step_alone() -> None:
    before = [getattr(F, name) for name in NAMES]

    def step_that_fails() -> None:
        with training_kernels(CPU, torch.bfloat16)():
            assert all(getattr(F, name).__module__.startswith("spectune.") for name in NAMES)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        step_that_fails()
    assert [getattr(F, name) for name in NAMES] == before


def test_a_gpu_keeps_torchs() -> None:
    assert training_kernels(torch.device("cuda"), torch.bfloat16) is nullcontext
