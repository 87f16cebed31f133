"""Informed starts: ΔW stays 0, the penalty starts at 0, and few gradients exist at a time."""

from __future__ import annotations

import weakref
from typing import Any, cast

import pytest
import torch
from tests.adapter.tiny import adapted, base, batch, hosted, logits
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from spectune.adapter import initialization
from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.initialization import start_from_gradient, start_orthonormal
from spectune.adapter.peft_host import attach


def test_orthonormal() -> None:
    model, engine = hosted("t5", spread=0.2)
    start_orthonormal(engine.store)
    assert float(engine.penalty().detach()) < 1e-5
    assert torch.equal(logits(model.eval()), logits(base("t5").eval()))


def gradients_of_base(family: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """∂L/∂W of two batches by autograd, in every linear map of the bare base."""
    model = base(family, 2, dtype=dtype).train()
    for step in (0, 1):
        model(**batch(step)).loss.backward()
    maps = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: module.weight.grad.float() for name, module in maps.items() if module.weight.grad is not None}


def start(model: Any, engine: AdaLoraEngine) -> None:
    """From the same two batches."""

    def backward() -> None:
        for step in (0, 1):
            model(**batch(step)).loss.backward()

    start_from_gradient(engine.store, backward)


def assert_slopes(model: Any, engine: AdaLoraEngine, gradients: dict[str, Tensor], tolerance: float) -> None:
    """∂L/∂λ is s times the singular values: no other directions let the loss fall faster."""
    model.zero_grad(set_to_none=True)
    for step in (0, 1):
        model(**batch(step)).loss.backward()
    slopes = engine.store.values.rows.grad
    assert slopes is not None
    for matrix, slope in zip(engine.store.matrices, slopes.split(engine.store.values.sizes), strict=True):
        singular = torch.linalg.svdvals(gradients[matrix.name])[: len(slope)] * engine.store.scale
        assert (slope.abs() - singular).norm() <= tolerance * singular.norm() + 1e-5


@pytest.mark.parametrize("checkpointing", [None, "reentrant", "not reentrant"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_gradient_gives_lambda_the_largest_slopes(family: str, checkpointing: str | None) -> None:
    inner = base(family, 2)
    if checkpointing is not None:
        reentrant = checkpointing == "reentrant"
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        inner.enable_input_require_grads()
    model = adapted(inner, spread=0.2)
    engine = attach(model, penalty="step")
    start(model, engine)
    assert float(engine.penalty().detach()) < 1e-4
    assert all(parameter.grad is None for parameter in engine.parameters())
    assert not any(matrix.layer.get_base_layer().weight.requires_grad for matrix in engine.store.matrices)
    assert_slopes(model, engine, gradients_of_base(family, torch.float32), 1e-3)
    assert torch.equal(logits(model.eval()), logits(base(family, 2).eval()))


def test_on_a_base_in_bfloat16() -> None:
    model = adapted(base("t5", 2, dtype=torch.bfloat16), spread=0.2)
    engine = attach(model, penalty="step")
    start(model, engine)
    assert float(engine.penalty().detach()) < 1e-4
    assert_slopes(model, engine, gradients_of_base("t5", torch.float32), 0.1)


class Gradients(TorchDispatchMode):
    """Bytes of whole matrices made by `torch.zeros`: alive now, and at most."""

    def __init__(self, shapes: set[tuple[int, ...]]) -> None:
        cast(Any, super()).__init__()
        self.shapes, self.alive, self.most, self.made = shapes, 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ == "zeros" and tuple(out.shape) in self.shapes:
            size = out.numel() * out.element_size()
            self.made += 1
            self.alive += size
            self.most = max(self.most, self.alive)
            weakref.finalize(out, self._gone, size)
        return out

    def _gone(self, size: int) -> None:
        self.alive -= size


@pytest.mark.parametrize("matrices", [1, 3])
def test_no_more_gradients_at_once_than_the_bound(matrices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, engine = hosted("bart", layers=2, spread=0.2)
    largest = 8 * 16 * 24
    monkeypatch.setattr(initialization, "CHUNK_BYTES", matrices * largest)
    monkeypatch.setattr(initialization, "_MOST_PASSES", 1000)
    passes = 0

    def backward() -> None:
        nonlocal passes
        passes += 1
        model(**batch(0)).loss.backward()

    with Gradients({(16, 16), (24, 16), (16, 24)}) as seen:
        start_from_gradient(engine.store, backward)
    assert seen.made == len(engine.store.matrices)
    assert seen.most <= matrices * largest
    assert seen.alive == 0
    assert passes >= sum(4 * m.layer.in_features * m.layer.out_features for m in engine.store.matrices) / seen.most


@pytest.mark.parametrize(
    ("sizes", "whole", "expected"),
    [
        ([8, 4, 4], True, 16),  # all of them
        ([100] * 20, True, 160),  # no more than the bound
        ([300, 100], True, 300),  # but the largest
        ([100] * 64, True, 400),  # nor more than sixteen passes
        ([100] * 64, False, 160),  # unless so much would be as large as the base itself
    ],
)
def test_bytes_of_gradients_at_once(
    sizes: list[int], whole: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(initialization, "CHUNK_BYTES", 160)
    assert initialization.chunk_bytes(sizes, whole=whole) == expected
