"""Copies, moves, loads, switches of adapter and mode: no stale parts, and the banks stay the only leaves."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
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
    live,
    logits,
    reload,
    steps_of_peft,
)

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.peft_host import detach


def assert_aliased(model: Any, engine: AdaLoraEngine) -> None:
    """PEFT's entries are frozen views of the rows that the optimizer trains."""
    assert model.base_model.engine is engine
    spaces = {bank.rows.untyped_storage().data_ptr() for bank in engine.store.banks}
    for kind in ("lora_A", "lora_B", "lora_E"):
        for entry in entries(model, kind).values():
            assert not entry.requires_grad
            assert entry.numel() == 0 or entry.untyped_storage().data_ptr() in spaces
    assert {p for p in model.parameters() if p.requires_grad} == set(engine.parameters())


def change(engine: AdaLoraEngine) -> None:
    """An optimizer's write: in place, without a call of the engine."""
    with torch.no_grad():
        for parameter in engine.parameters():
            parameter.add_(0.05)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_whole_and_apart(clone: Callable[[Any], Any]) -> None:
    model, engine = hosted("t5", spread=0.2)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, 10))
    before = logits(model)
    model(**batch(0)).loss.backward()
    optimizer.zero_grad()
    twin = clone(model)
    assert_aliased(twin, twin.base_model.engine)
    assert_aliased(model, engine)
    assert torch.equal(logits(twin), before)
    moments = copy.deepcopy(optimizer.state_dict())
    here = steps_of_peft(model, optimizer, range(10, FREEZE + 2))
    moved = logits(model)
    assert torch.equal(logits(twin), before), "the copy is no view"
    theirs = OPTIMIZERS["adamw"](twin.base_model.engine.parameters())
    theirs.load_state_dict(moments)
    there = steps_of_peft(twin, theirs, range(10, FREEZE + 2))
    assert there.losses == here.losses
    assert torch.equal(logits(twin), moved)
    assert torch.equal(logits(detach(twin)), moved) or (logits(twin) - moved).abs().max() < 1e-5


def test_a_cast_leaves_the_masters() -> None:
    model, engine = hosted("t5", spread=0.2)
    rows = [parameter.detach().clone() for parameter in engine.parameters()]
    steps_of_peft(model, OPTIMIZERS["adamw"](engine.parameters()), range(1, 3))
    rows = [parameter.detach().clone() for parameter in engine.parameters()]
    same = engine.parameters()
    model.to(torch.bfloat16)
    assert base("t5", dtype=torch.bfloat16).dtype == model.dtype == torch.bfloat16
    assert_aliased(model, engine)
    for parameter, before, expected in zip(engine.parameters(), same, rows, strict=True):
        assert parameter is before, "an optimizer over it goes on"
        assert torch.equal(parameter, expected)
    assert {entry.dtype for entry in entries(model, "lora_A").values()} == {torch.float32}
    model(**batch(0)).loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in engine.parameters()
    )


def test_double_precision_takes_the_averages_along() -> None:
    model, engine = hosted("t5", spread=0.2)
    optimizer = OPTIMIZERS["momentum"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, 4))
    model.double()
    steps_of_peft(model, OPTIMIZERS["momentum"](engine.parameters()), range(4, FREEZE + 2))
    assert live(model).sum() == engine.target_budget


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_a_step_without_a_call_of_the_engine(mode: str) -> None:
    """`optimizer.step()`, then straight on, as a person who forgets update_and_allocate does."""
    model, engine = hosted("bart", spread=0.2)
    model.train(mode == "train")
    logits(model)
    change(engine)
    fresh, other = hosted("bart", spread=0.2)
    change(other)
    expected = logits(fresh.eval())
    torch.testing.assert_close(logits(model), expected)
    torch.testing.assert_close(logits(model.eval()), expected)
    assert torch.equal(generated(model), generated(fresh))


def test_a_part_of_the_model_called_by_itself() -> None:
    model, engine = hosted("bart", spread=0.2)
    encoder = model.get_base_model().get_encoder()
    tokens = batch(0)["input_ids"]
    generated(model.eval())
    model.train()
    encoder(tokens).last_hidden_state.sum().backward()
    assert all(parameter.grad is not None for parameter in engine.parameters())
    inner = model.get_base_model()
    change(engine)
    with torch.no_grad():
        by_inner = inner(input_ids=tokens, decoder_input_ids=tokens).logits
        by_peft = model(input_ids=tokens, decoder_input_ids=tokens).logits
    assert torch.equal(by_inner, by_peft)


def test_generation_between_training_steps() -> None:
    plain, _ = hosted("t5", spread=0.2)
    optimizer = OPTIMIZERS["adamw"](plain.parameters())
    expected = steps_of_peft(plain, optimizer, range(1, 8))
    model, engine = hosted("t5", spread=0.2)

    def look(step: int) -> None:
        if step % 2:
            generated(model)
        else:
            with torch.inference_mode():
                model.eval()(**batch(step))
            model.train()

    found = steps_of_peft(model, OPTIMIZERS["adamw"](engine.parameters()), range(1, 8), after=look)
    assert found.losses == expected.losses


def test_inference_mode_then_training() -> None:
    model, engine = hosted("bart", spread=0.2)
    with torch.inference_mode():
        inference = model(**batch(0)).logits.clone()
        generated(model)
    output = model(**batch(0))
    torch.testing.assert_close(output.logits.detach(), inference.clone())
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in engine.parameters())


def test_another_adapter_and_back(tmp_path: Path) -> None:
    first = adapted(base("t5"), spread=0.3, target_modules=["q", "v"])
    other = logits(reload(first, tmp_path, "t5"))
    model, engine = hosted("t5", spread=0.2)
    ours = logits(model.eval())
    load(model, tmp_path, "other")
    assert_aliased(model.train(), engine)
    assert torch.equal(logits(model.eval()), ours)

    model.set_adapter("other")
    torch.testing.assert_close(logits(model), other, rtol=0, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in engine.parameters())
    model.base_model.set_adapter(["default", "other"])
    both = logits(model)
    assert min(float((both - ours).abs().max()), float((both - other).abs().max())) > 1e-2
    model.set_adapter("default")
    assert torch.equal(logits(model), ours)
    assert all(parameter.requires_grad for parameter in engine.parameters())


def load(model: Any, directory: Path, name: str) -> None:
    model.load_adapter(directory, adapter_name=name)


def test_several_active_adapters_train_as_in_peft(tmp_path: Path) -> None:
    """The formula of several adapters, with gradients, against plain PEFT."""
    adapted(base("t5"), spread=0.3, target_modules=["q", "wo"]).save_pretrained(tmp_path)
    model, engine = hosted("t5", spread=0.2)
    plain = adapted(base("t5"), spread=0.2)
    losses = []
    for each in (plain, model):
        load(each, tmp_path, "other")
        each.base_model.set_adapter(["default", "other"])
        each.train()  # PEFT's load_adapter leaves evaluation mode behind
        loss = each(**batch(0)).loss
        loss.backward()
        losses.append(float(loss.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    expected = [entry.grad.flatten() for entry in entries(plain, "lora_E").values() if entry.grad is not None]
    assert engine.store.values.rows.grad is not None
    torch.testing.assert_close(engine.store.values.rows.grad, torch.cat(expected), rtol=1e-4, atol=1e-6)


def test_freezing_through_peft_freezes_the_banks() -> None:
    model, engine = hosted("t5", spread=0.2)
    model.set_requires_grad("default", False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.set_requires_grad("default")
    assert_aliased(model, engine)
    with model.disable_adapter():
        pass
    assert_aliased(model, engine)


def test_matrices_without_gradient_in_a_step() -> None:
    """As with layer dropout: a missing gradient is zero, for the banks and for importance."""
    model, engine = hosted("bart", spread=0.2, penalty="step")
    model.get_base_model().get_encoder()(batch(0)["input_ids"]).last_hidden_state.sum().backward()
    values = engine.store.values.rows.grad
    assert values is not None
    touched = [bool(part.any()) for part in values.split(engine.store.values.sizes)]
    assert touched == ["encoder." in matrix.name for matrix in engine.store.matrices]
    engine.observe()
    assert engine.scores().isfinite().all()
    model.zero_grad(set_to_none=True)
    engine.observe()
    engine.reallocate(FREEZE)
    assert sum(engine.ranks().values()) == engine.target_budget


def bank_of(engine: Any, factor: str) -> Any:
    """The bank of all λ, or the first of the rows of Q or of Pᵀ."""
    store = engine.store
    return {"values": store.values, "queries": store.queries[0], "outputs": store.outputs[0]}[factor]


@pytest.mark.parametrize("penalty", ["loss", "step"])
def test_double_backward_raises(penalty: str) -> None:
    model, engine = hosted("t5", spread=0.2, penalty=penalty)
    gradients = torch.autograd.grad(model(**batch(0)).loss, engine.parameters(), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        sum(gradient.square().sum() for gradient in gradients).backward()  # type: ignore[union-attr]


@pytest.mark.parametrize("of", ["values", "queries", "outputs"])
@pytest.mark.parametrize("penalty", ["loss", "step"])
def test_second_derivatives_of_chosen_inputs_raise(penalty: str, of: str) -> None:
    """A gradient penalty on the embeddings: `grad` walks the paths to what it is asked for alone."""
    model, engine = hosted("t5", spread=0.2, penalty=penalty)
    chosen = bank_of(engine, of).rows
    embedded = model.get_input_embeddings()(batch(0)["input_ids"]).detach().requires_grad_()
    loss = model(inputs_embeds=embedded, labels=batch(0)["labels"]).loss
    (gradient,) = torch.autograd.grad(loss, [embedded], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.grad(gradient.square().sum(), [chosen])


@pytest.mark.parametrize("factor", ["values", "queries", "outputs"])
def test_a_gradient_that_no_loss_has_curved_raises_too(factor: str) -> None:
    """∂(Σ y)/∂x = W + S ᵀQ: the gradient that comes in is constant, what comes out is not."""
    model, engine = hosted("t5", spread=0.2)
    layer: Any = next(module for module in model.modules() if hasattr(module, "factors"))
    model(**batch(0))  # makes the parts
    x = torch.randn(2, layer.in_features, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.grad(gradient.square().sum(), [bank_of(engine, factor).rows])


def test_detached_it_has_the_second_derivatives_of_plain_peft() -> None:
    """Where the refusal sends those who need them."""
    model, _ = hosted("t5", spread=0.2)
    both: list[Any] = [detach(model), adapted(base("t5"), spread=0.2)]
    found = []
    for each in both:
        each.get_base_model().set_attn_implementation("eager")  # torch's fused one has none on a CPU
        values = list(entries(each, "lora_E").values())
        loss = each(**batch(0)).loss
        gradients = torch.autograd.grad(loss, values, create_graph=True)
        curved = sum((gradient.square().sum() for gradient in gradients), torch.zeros(()))
        found.append(torch.cat([part.flatten() for part in torch.autograd.grad(curved, values)]))
    assert found[0].any()
    torch.testing.assert_close(*found)


def test_functorch_raises() -> None:
    model, _ = hosted("t5", spread=0.2)
    layer: Any = next(module for module in model.modules() if hasattr(module, "factors"))
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda x: layer(x).sum())(torch.randn(2, layer.in_features))


def test_a_write_between_forward_and_backward_raises() -> None:
    model, engine = hosted("t5", spread=0.2)
    for bank in engine.store.banks:
        loss = model(**batch(0)).loss
        with torch.no_grad():
            bank.rows.mul_(0.5)
        with pytest.raises(RuntimeError, match=r"in place|inplace"):
            loss.backward()
