"""What a training step on a CPU computes with: exchanged for the step alone, in every architecture."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, cast

import pytest
import torch
from tests.architectures.builders import build
from tests.architectures.trial import OPTIONS, attached, rows
from torch.nn import functional as F

import spectune
from spectune.data.assembly import Window
from spectune.training import attention, dropout
from spectune.training.attention import AttentionOfHeads
from spectune.training.checkpointing import enable_checkpointing
from spectune.training.kernels import exchanged, training_kernels
from spectune.training.step import window_loss

CPU = torch.device("cpu")
NAMES = ("dropout", "scaled_dot_product_attention")


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often ours were called; attention is theirs at every size, or these tiny models had none of it."""
    monkeypatch.setattr(attention, "_WITHOUT_ONEDNN", 0)
    found = {"attention": 0, "noise": 0}
    forward, noise = AttentionOfHeads.forward, dropout.noise

    def counted(*given: Any) -> Any:
        found["attention"] += 1
        return forward(*given)

    def drawn(*given: Any) -> Any:
        found["noise"] += 1
        return noise(*given)

    monkeypatch.setattr(AttentionOfHeads, "forward", staticmethod(counted))
    monkeypatch.setattr(dropout, "noise", drawn)
    return found


def gradients(
    kind: str, dtype: torch.dtype, *, drop: float = 0.0, reentrant: bool | None = None, autocast: bool = False
) -> list[torch.Tensor]:
    """Of one batch; `reentrant`: of the checkpoints, None without them."""
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
    low = partial(torch.autocast, "cpu", torch.bfloat16, enabled=autocast)
    options = replace(OPTIONS, kernels=training_kernels(CPU), autocast=low)
    window_loss(model.train(), Window([rows(0)], 15, 1, 4, 0.0), options)
    return [cast(torch.Tensor, parameter.grad) for parameter in engine.parameters()]


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_models_call_them(kind: str, calls: dict[str, int]) -> None:
    gradients(kind, torch.bfloat16)
    assert calls["attention"] > 0 == calls["noise"]
    calls.update(attention=0)
    gradients(kind, torch.float32)
    assert calls == {"attention": 0, "noise": 0}, "torch's fused attention is faster in float32"
    gradients(kind, torch.float32, drop=0.1)
    assert calls["attention"] > 0 < calls["noise"]


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "autocast"])
@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_layers_that_are_computed_again_drop_the_same(
    kind: str, precision: str, reentrant: bool, calls: dict[str, int]
) -> None:
    """Re-entrant checkpoints add the encoder's gradients up in another order, which bfloat16 rounds by 0.003."""
    dtype, autocast = getattr(torch, precision.replace("autocast", "float32")), precision == "autocast"
    once = gradients(kind, dtype, drop=0.3, autocast=autocast)
    again = gradients(kind, dtype, drop=0.3, autocast=autocast, reentrant=reentrant)
    assert calls["attention"] > 0
    most = 0.02 if reentrant and precision != "float32" else 1e-6
    for one, other in zip(once, again, strict=True):
        assert float((one - other).norm() / one.norm()) <= most


def test_they_are_there_for_the_step_alone() -> None:
    before = [getattr(F, name) for name in NAMES]

    def step_that_fails() -> None:
        with training_kernels(CPU)(), training_kernels(CPU)():
            assert all(getattr(F, name).__module__.startswith("spectune.") for name in NAMES)
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        step_that_fails()
    assert [getattr(F, name) for name in NAMES] == before


def test_the_last_of_two_threads_gives_torchs_back() -> None:
    before = [getattr(F, name) for name in NAMES]
    one, other = exchanged(), exchanged()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert [getattr(F, name) for name in NAMES] != before
    other.__exit__(None, None, None)
    assert [getattr(F, name) for name in NAMES] == before


def test_a_gpu_keeps_torchs() -> None:
    assert training_kernels(torch.device("cuda")) is nullcontext
