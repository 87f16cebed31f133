"""Informed starts: ΔW stays 0, the penalty starts at 0."""

from __future__ import annotations

import pytest
import torch
from tests.adapter.tiny import base, batch, hosted, logits

from spectune.adapter.initialization import start_from_gradient, start_orthonormal


def test_orthonormal() -> None:
    model, engine = hosted("t5", spread=0.2)
    start_orthonormal(engine.store)
    assert float(engine.penalty().detach()) < 1e-5
    assert torch.equal(logits(model.eval()), logits(base("t5").eval()))


def test_gradient_gives_lambda_the_largest_slopes() -> None:
    model, engine = hosted("t5", spread=0.2)
    base_gradients = {}

    def backward() -> None:
        with model.disable_adapter():
            model.eval()(**batch(0)).loss.backward()
        for matrix in engine.store.matrices:
            weight = matrix.layer.get_base_layer().weight
            if weight.grad is not None:
                base_gradients[matrix.name] = weight.grad.clone()

    start_from_gradient(engine.store, backward)
    assert torch.equal(logits(model), logits(base("t5").eval()))
    assert float(engine.penalty().detach()) < 1e-4
    assert not any(matrix.layer.get_base_layer().weight.requires_grad for matrix in engine.store.matrices)
    model.zero_grad(set_to_none=True)
    model(**batch(0)).loss.backward()
    slopes = engine.store.values.rows.grad
    assert slopes is not None
    for matrix, slope in zip(engine.store.matrices, slopes.split(engine.store.values.sizes), strict=True):
        singular = torch.linalg.svdvals(base_gradients[matrix.name])[: len(slope)]
        assert slope.abs().tolist() == pytest.approx((engine.store.scale * singular).tolist(), rel=1e-3, abs=1e-5)
