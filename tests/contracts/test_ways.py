"""Every way of running a model, on bases in every precision: the numbers are PEFT's."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.operations import Operations
from tests.adapter.tiny import adapted, base, batch, entries, logits
from tests.contracts.test_host_reads import of_the_frozen_base
from tests.contracts.test_precision import (
    assert_close_gradients,
    distance,
    gradients_of_banks,
    gradients_of_peft,
)

from spectune.adapter.peft_host import attach

FLOAT, BRAIN, HALF = torch.float32, torch.bfloat16, torch.float16
WAYS = ("plain", "dropout", "reentrant", "not reentrant", "autocast", "several")
# T5's maps have no bias, BART's have one
both = pytest.mark.parametrize("family", ["t5", "bart"])
precisions = pytest.mark.parametrize("dtype", [FLOAT, BRAIN, HALF], ids=str)


def prepared(family: str, dtype: torch.dtype, way: str, other: Path) -> Any:
    """Plain PEFT's model, made ready for one way of training."""
    inner = base(family, 2, dtype=dtype)
    if "reentrant" in way:
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": way == "reentrant"})
        inner.enable_input_require_grads()
    model = adapted(inner, spread=0.2, lora_dropout=0.3 if way == "dropout" else 0.0)
    if way == "several":
        model.load_adapter(other, adapter_name="other")
        model.base_model.set_adapter(["default", "other"])
        model.train()
    return model


def loss_of(model: Any, way: str) -> float:
    """Forward and backward of one batch."""
    torch.manual_seed(5)
    mixed = torch.autocast("cpu", dtype=BRAIN) if way == "autocast" else contextlib.nullcontext()
    with mixed:
        loss = model(**batch(0)).loss
    loss.backward()
    return float(loss.detach())


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A second adapter for each family, of which one kind of matrix is in the first as well."""
    root = tmp_path_factory.mktemp("other")
    for family, targets in (("t5", ["q", "wo"]), ("bart", ["q_proj", "fc1"])):
        adapted(base(family, 2), spread=0.3, target_modules=targets).save_pretrained(root / family)
    return {family: root / family for family in ("t5", "bart")}


@pytest.mark.filterwarnings("ignore:.*None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("dtype", "way"),
    [(d, way) for d in (FLOAT, BRAIN, HALF) for way in WAYS if (d, way) != (HALF, "autocast")],  # the base refuses that
    ids=str,
)
@both
def test_training(family: str, dtype: torch.dtype, way: str, other: dict[str, Path]) -> None:
    plain, model, exact = (prepared(family, d, way, other[family]) for d in (dtype, dtype, FLOAT))
    engine = attach(model)
    expected, found, true = loss_of(plain, way), loss_of(model, way), loss_of(exact, way if way != "autocast" else "")
    assert {parameter.grad.dtype for parameter in engine.parameters() if parameter.grad is not None} == {FLOAT}
    if dtype == FLOAT and way != "autocast":
        assert found == pytest.approx(expected, abs=1e-5)
        assert_close_gradients(engine, plain, 1e-5)
        return
    assert found == pytest.approx(true, rel=0.02)
    truth = gradients_of_peft(exact)
    error = distance(gradients_of_banks(engine), truth)
    assert error < 0.15
    most = 2.0 if way == "dropout" else 1.5  # what dropout leaves is scaled, and rounded, in the base's precision
    assert error < most * distance(gradients_of_peft(plain), truth), "about as exact as PEFT's"


@precisions
@both
def test_without_gradient(family: str, dtype: torch.dtype) -> None:
    """Evaluation, inference mode, disabled, merged and unmerged, one after the other."""
    plain, model = (adapted(base(family, dtype=dtype), spread=0.2) for _ in range(2))
    attach(model)
    untouched = logits(base(family, dtype=dtype).eval())
    one_unit = (1e-5 if dtype == FLOAT else torch.finfo(dtype).eps) * max(1.0, float(untouched.abs().max()))

    def assert_same(way: str) -> None:
        torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=one_unit, msg=way)

    for each in (plain, model):
        each.eval()
    assert_same("evaluation")
    with torch.inference_mode():
        assert_same("inference mode")
    with model.disable_adapter():
        assert torch.equal(logits(model), untouched)
    for each in (plain, model):
        each.merge_adapter()
    assert_same("merged")
    with model.disable_adapter(), plain.disable_adapter():
        assert_same("disabled while merged, which unmerges")
    assert_same("after that")
    model.train()
    model(**batch(0)).loss.backward()
    assert all(parameter.grad is not None for parameter in model.base_model.engine.parameters())
    assert not any(entry.requires_grad for entry in entries(model, "lora_A").values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", [BRAIN, HALF], ids=str)
@both
def test_one_cast_per_bank_and_step(family: str, dtype: torch.dtype, checkpointing: bool) -> None:
    """Casts beyond the frozen base's: one of every side bank forward, one of its gradient, whatever the depth."""
    for layers in (1, 2):
        frozen = of_the_frozen_base(family, layers, dtype=dtype, checkpointing=checkpointing)
        inner = base(family, layers, dtype=dtype)
        inner.enable_input_require_grads()  # as in the frozen base, whose first norm has a gradient by that
        if checkpointing:
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        engine = attach(adapted(inner), penalty="step")
        with Operations() as seen:
            inner.train()(**batch(1)).loss.backward()
        assert seen.count["_to_copy"] - frozen.count["_to_copy"] == 2 * len(engine.store.sides)
