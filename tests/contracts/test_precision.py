"""Base models in bf16 and fp64, autocast, and dropout: masters stay fp32, numbers are PEFT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapter.tiny import (
    FREEZE,
    OPTIMIZERS,
    adapted,
    base,
    batch,
    entries,
    generated,
    hosted,
    load_plain,
    logits,
    steps_of_peft,
)
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.peft_host import attach


def gradients_of_peft(model: nn.Module) -> list[Tensor]:
    """Gradients of plain PEFT's entries in the order of our banks' rows: λ, then Q, then P."""
    found = []
    for kind in ("lora_E", "lora_A", "lora_B"):
        for entry in entries(model, kind).values():
            assert entry.grad is not None
            found.append(entry.grad.t() if kind == "lora_B" else entry.grad)
    return found


def gradients_of_banks(engine: AdaLoraEngine) -> list[Tensor]:
    """The same of the banks, matrix by matrix."""
    store = engine.store
    found: list[dict[int, Tensor]] = []
    for banks in ([store.values], store.queries, store.outputs):
        by_matrix: dict[int, Tensor] = {}
        for bank in banks:
            assert bank.rows.grad is not None
            by_matrix |= dict(zip(bank.members, bank.rows.grad.split(bank.sizes), strict=True))
        found.append(by_matrix)
    return [
        part[number].reshape(-1, 1) if part[number].dim() == 1 else part[number]
        for part in found
        for number in sorted(part)
    ]


def assert_close_gradients(engine: AdaLoraEngine, plain: nn.Module, tolerance: float) -> None:
    ours, theirs = gradients_of_banks(engine), gradients_of_peft(plain)
    for found, expected in zip(ours, theirs, strict=True):
        assert (found - expected).norm() <= tolerance * expected.norm() + 1e-7


def distance(found: list[Tensor], truth: list[Tensor]) -> float:
    """Relative distance of all gradients together."""
    differences = torch.cat([(a.float() - b).flatten() for a, b in zip(found, truth, strict=True)])
    return float(differences.norm() / torch.cat([b.flatten() for b in truth]).norm())


def true_gradients(family: str) -> list[Tensor]:
    exact = adapted(base(family), spread=0.2)
    exact(**batch(0)).loss.backward()
    return gradients_of_peft(exact)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_bf16_base_evaluates_as_plain_peft(family: str, tmp_path: Path) -> None:
    model: Any = adapted(base(family, dtype=torch.bfloat16), spread=0.2)
    engine = attach(model)
    steps_of_peft(model, OPTIMIZERS["adamw"](engine.parameters()), range(1, FREEZE + 2))
    assert {parameter.dtype for parameter in engine.parameters()} == {torch.float32}
    assert len(engine.parameters()) == len(engine.store.banks), "PEFT's cast makes its scale trainable, attach does not"
    model.save_pretrained(tmp_path)
    plain = load_plain(family, tmp_path, torch.bfloat16)
    expected, found = logits(plain), logits(model.eval())
    assert found.dtype == torch.bfloat16
    one_unit = torch.finfo(torch.bfloat16).eps * expected.float().abs().max()
    assert (found.float() - expected.float()).abs().max() <= one_unit
    assert torch.equal(generated(model), generated(plain))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_bf16_base_trains_in_bf16_parts(family: str) -> None:
    model: Any = adapted(base(family, dtype=torch.bfloat16), spread=0.2)
    engine = attach(model)
    plain = adapted(base(family, dtype=torch.bfloat16), spread=0.2)
    loss = model(**batch(0)).loss
    parts = [matrix.factors.q for matrix in engine.store.matrices]
    assert {part.dtype for part in parts if part is not None} == {torch.bfloat16}
    loss.backward()
    plain(**batch(0)).loss.backward()
    truth = true_gradients(family)
    error = distance(gradients_of_banks(engine), truth)
    assert error < 0.1
    assert error < 1.5 * distance(gradients_of_peft(plain), truth), "no less exact than PEFT's"


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_autocast(family: str) -> None:
    model, engine = hosted(family, spread=0.2)
    plain = adapted(base(family), spread=0.2)
    exact = float(plain(**batch(0)).loss.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = model(**batch(0)).loss, plain(**batch(0)).loss
    assert float(ours.detach()) == pytest.approx(exact, rel=0.02)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=0.02)
    ours.backward()
    theirs.backward()
    assert {parameter.grad.dtype for parameter in engine.parameters() if parameter.grad is not None} == {torch.float32}
    truth = true_gradients(family)
    error = distance(gradients_of_banks(engine), truth)
    assert error < 0.1
    assert error < 1.5 * distance(gradients_of_peft(plain), truth), "no less exact than PEFT's"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = logits(model.eval()), logits(plain.eval())
        tokens = generated(model)
    torch.testing.assert_close(found.float(), expected.float(), rtol=0.02, atol=0.05)
    assert tokens.shape[0] == 4


def test_the_penalty_is_exact_under_autocast() -> None:
    _, engine = hosted("t5", spread=0.2)
    exact = engine.penalty()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(engine.penalty(), exact)


def test_double_precision_base_has_double_precision_banks() -> None:
    model: Any = adapted(base("bart", dtype=torch.float64), spread=0.2)
    engine = attach(model)
    plain = adapted(base("bart", dtype=torch.float64), spread=0.2)
    ours, theirs = model(**batch(0)).loss, plain(**batch(0)).loss
    assert float((ours - theirs).detach()) == pytest.approx(0.0, abs=1e-12)
    ours.backward()
    theirs.backward()
    assert_close_gradients(engine, plain, 1e-10)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_gradients_are_those_of_peft(family: str) -> None:
    model, engine = hosted(family, spread=0.2)
    plain = adapted(base(family), spread=0.2)
    model(**batch(0)).loss.backward()
    plain(**batch(0)).loss.backward()
    assert_close_gradients(engine, plain, 1e-5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_dropout_as_in_peft(family: str) -> None:
    """The same random numbers drop the same inputs: losses, live sets and gradients are PEFT's."""
    traces = []
    for attaches in (False, True):
        model = adapted(base(family), lora_dropout=0.3)
        optimizer = OPTIMIZERS["adamw"](attach(model).parameters() if attaches else model.parameters())
        torch.manual_seed(5)
        traces.append(steps_of_peft(model, optimizer, range(1, FREEZE + 3)))
    plain, ours = traces
    assert ours.losses == pytest.approx(plain.losses, abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(ours.live, plain.live, strict=True))


def test_dropout_is_for_training_only() -> None:
    model, _ = hosted("t5", spread=0.2, lora_dropout=0.5)
    without, _ = hosted("t5", spread=0.2)
    assert not torch.equal(logits(model), logits(model))
    assert torch.equal(logits(model.eval()), logits(without.eval()))


def test_a_float32_wo_beside_float16(tmp_path: Path) -> None:
    """transformers keeps T5's `wo` in float32 where the rest is float16; plain PEFT's numbers all the same."""
    base("t5").save_pretrained(tmp_path)
    halves = [AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float16) for _ in range(2)]
    kinds = {name: weight.dtype for name, weight in halves[0].named_parameters() if "DenseReluDense" in name}
    assert {dtype for name, dtype in kinds.items() if ".wo." in name} == {torch.float32}
    assert {dtype for name, dtype in kinds.items() if ".wo." not in name} == {torch.float16}
    plain, model = (adapted(half) for half in halves)
    torch.manual_seed(3)
    with torch.no_grad():
        for entry, other in zip(entries(plain, "lora_E").values(), entries(model, "lora_E").values(), strict=True):
            other.copy_(entry.normal_(std=0.1))
    engine = attach(model)
    torch.testing.assert_close(logits(model.eval()), logits(plain.eval()), rtol=1e-2, atol=1e-2)
    model.train()(**batch(1)).loss.backward()
    assert all(p.grad is not None and p.dtype == torch.float32 for p in engine.parameters())
    assert all(torch.isfinite(p.grad).all() for p in engine.parameters() if p.grad is not None)
