"""8-bit and 4-bit bases of bitsandbytes, on its processor paths: the numbers are those of PEFT's own classes."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from peft.tuners.adalora import SVDLinear4bit, SVDLinear8bitLt
from tests.adapter.tiny import FREEZE, LAST, OPTIMIZERS, adapted, base, batch, generated, logits, steps_of_peft
from tests.contracts.test_precision import assert_close_gradients
from transformers import AutoModelForSeq2SeqLM, BitsAndBytesConfig

from spectune.adapter.initialization import start_from_gradient
from spectune.adapter.peft_host import attach, detach
from spectune.adapter.peft_inference import plain_arithmetic

FLOAT, BRAIN = torch.float32, torch.bfloat16
# PEFT's 8-bit layer returns float32 whatever comes in, so no model in bfloat16 runs with it
KINDS = [("int8", FLOAT), ("nf4", FLOAT), ("nf4", BRAIN)]
CLASSES = {"int8": SVDLinear8bitLt, "nf4": SVDLinear4bit}
CASES = [pytest.param(family, *kind, id=f"{family}-{kind[0]}-{kind[1]}") for family in ("t5", "bart") for kind in KINDS]


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """bitsandbytes says once for each matrix and call that it casts."""
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    before = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(before)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of both families as transformers loads them."""
    root = tmp_path_factory.mktemp("bases")
    for family in ("t5", "bart"):
        base(family).save_pretrained(root / family)
    return root


def quantized(directory: Path, family: str, kind: str, dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {"load_in_8bit": True}
    if kind == "nf4":
        options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(
        directory / family, dtype=dtype, device_map={"": "cpu"}, quantization_config=BitsAndBytesConfig(**options)
    )
    for module in model.modules():  # on a processor with bfloat16 units plain PEFT would not train after an evaluation
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def finished(directory: Path, family: str, kind: str, dtype: torch.dtype) -> Any:
    """A model trained past its freeze and compacted, in evaluation mode."""
    model = adapted(quantized(directory, family, kind, dtype), spread=0.3)
    engine = attach(model)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, FREEZE + 2))
    engine.compact(optimizer)
    return model.eval()


def trainable(model: Any) -> list[Any]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.mark.parametrize(("family", "kind", "dtype"), CASES)
def test_gradients_are_those_of_peft(directory: Path, family: str, kind: str, dtype: torch.dtype) -> None:
    plain = adapted(quantized(directory, family, kind, dtype), spread=0.2)
    model = adapted(quantized(directory, family, kind, dtype), spread=0.2)
    assert any(type(module) is CLASSES[kind] for module in model.modules())
    engine = attach(model)
    losses = []
    for each in (plain, model):
        loss = each(**batch(0)).loss
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5 if dtype == FLOAT else 0.05)
    assert {parameter.dtype for parameter in engine.parameters()} == {FLOAT}
    assert_close_gradients(engine, plain, 1e-5 if dtype == FLOAT else 0.1)
    quantized_ones = [matrix for matrix in engine.store.matrices if matrix.layer.quantized]
    assert quantized_ones
    assert {m.factors.q.dtype for m in quantized_ones if m.factors.q is not None} == {dtype}


@pytest.mark.parametrize(("family", "kind"), [("t5", "int8"), ("bart", "int8"), ("t5", "nf4"), ("bart", "nf4")])
def test_a_run_is_that_of_peft(directory: Path, family: str, kind: str) -> None:
    """Losses and live sets, with evaluations in between, which must leave the weights trainable."""
    traces = []
    for attaches in (False, True):
        model = adapted(quantized(directory, family, kind, FLOAT))
        optimizer = OPTIMIZERS["adamw"](attach(model).parameters() if attaches else trainable(model))

        def look(step: int, model: Any = model) -> None:
            if step % 7 == 3:
                generated(model.eval())
                model.train()

        traces.append(steps_of_peft(model, optimizer, range(1, LAST), after=look))
    plain, ours = traces
    assert ours.losses == pytest.approx(plain.losses, abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(ours.live, plain.live, strict=True))
    assert plain.losses[-1] < plain.losses[0] - 0.1, "it learns"


@pytest.mark.parametrize(("family", "kind", "dtype"), CASES)
def test_saved_and_reloaded_by_peft(
    directory: Path, family: str, kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    model = finished(directory, family, kind, dtype)
    expected, tokens = logits(model), generated(model)
    with model.disable_adapter():
        assert not torch.equal(logits(model), expected), "the adapter does something"
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(quantized(directory, family, kind, dtype), tmp_path)
    # a float32 digit decides now and then how T5's `wo`, which is not quantised, is rounded
    unit = 1e-5 if dtype == FLOAT else 2 * torch.finfo(dtype).eps * float(expected.abs().max())
    for other in (plain, copy.deepcopy(model), detach(model)):
        torch.testing.assert_close(logits(other), expected, rtol=0, atol=unit)
        assert torch.equal(generated(other), tokens)


@pytest.mark.parametrize(("family", "kind", "dtype"), CASES)
def test_an_evaluation_is_bit_for_bit_the_reloaded_adapter(
    directory: Path, family: str, kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """PEFT rounds a pruned adapter to what the base multiplies in while it loads it."""
    model = finished(directory, family, kind, dtype)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(quantized(directory, family, kind, dtype), tmp_path).eval()
    with plain_arithmetic(model):
        assert torch.equal(logits(model), logits(plain))


def test_4_bit_weights_stay_as_they_are_in_evaluation(directory: Path) -> None:
    """On a processor with bfloat16 units bitsandbytes would repack them, after which nothing trains through them."""
    wrapped = adapted(quantized(directory, "t5", "nf4", FLOAT))
    layers = [module for module in wrapped.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    for layer in layers:
        layer.support_avx512bf16_for_cpu = True  # as there
    attach(wrapped)
    before = [layer.weight.data.clone() for layer in layers]
    generated(wrapped.eval())
    assert all(torch.equal(layer.weight.data, weight) for layer, weight in zip(layers, before, strict=True))
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for layer in layers)
    wrapped.train()(**batch(0)).loss.backward()
    assert all(parameter.grad is not None for parameter in wrapped.base_model.engine.parameters())


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_gradient_start(directory: Path, kind: str) -> None:
    """Weights without a gradient of their own start like others: ΔW is 0, and λ has the steepest slopes first."""
    model = adapted(quantized(directory, "bart", kind, FLOAT), spread=0.2)
    engine = attach(model, penalty="step")
    untouched = quantized(directory, "bart", kind, FLOAT)
    start_from_gradient(engine.store, lambda: model(**batch(0)).loss.backward())
    assert torch.equal(logits(model.eval()), logits(untouched.eval()))
    assert float(engine.penalty().detach()) < 1e-4
    model.train()(**batch(0)).loss.backward()
    slopes = engine.store.values.rows.grad
    assert slopes is not None
    steep = [slope.abs() for slope in slopes.split(engine.store.values.sizes)]
    assert all((slope.diff() <= 1e-6).all() for slope in steep)
    assert torch.stack(steep).mean(0)[0] > 2 * torch.stack(steep).mean(0)[-1] > 0
