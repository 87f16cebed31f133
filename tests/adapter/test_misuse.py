"""Wrong use of the engine: one clear line each."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from tests.adapter.tiny import (
    FREEZE,
    OPTIMIZERS,
    SCHEDULE,
    adapted,
    base,
    batch,
    hosted,
    load_plain,
    logits,
    reload,
    steps_of_paper,
    steps_of_peft,
)
from torch import nn

from spectune.adapter.peft_host import attach, detach
from spectune.errors import AdapterError, ConfigError


def test_a_model_without_adalora() -> None:
    with pytest.raises(AdapterError, match="T5ForConditionalGeneration; call get_peft_model"):
        attach(base("t5"))
    lora = get_peft_model(base("t5"), LoraConfig(target_modules=["q"], task_type="SEQ_2_SEQ_LM"))
    with pytest.raises(AdapterError, match="needs a PeftModel with an AdaLoRA adapter"):
        attach(lora)


def test_attached_twice_and_detached_twice() -> None:
    model, _ = hosted("t5")
    with pytest.raises(AdapterError, match=r"attached to this model already; detach\(model\) first"):
        attach(model)
    detach(model)
    with pytest.raises(AdapterError, match="plain PEFT already"):
        detach(model)
    attach(model)


def test_an_adapter_loaded_for_inference(tmp_path: Path) -> None:
    adapted(base("t5")).save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="load it with is_trainable=True"):
        attach(load_plain("t5", tmp_path))


def test_a_convolution() -> None:
    model: Any = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4, 4))
    with_convolution = get_peft_model(model, AdaLoraConfig(target_modules=["0", "2"], **SCHEDULE))
    with pytest.raises(AdapterError, match="0 is a convolution; spectune adapts linear maps"):
        attach(with_convolution)


def test_a_schedule_made_impossible_after_the_configuration() -> None:
    model = adapted(base("t5"))
    model.peft_config["default"].tinit = SCHEDULE["total_step"]
    with pytest.raises(ConfigError, match="lower tinit or tfinal"):
        attach(model)


@pytest.mark.parametrize("second", [3, 2, 0])
@pytest.mark.parametrize("call", ["reallocate", "update_and_allocate"])
def test_steps_that_repeat_or_go_back(call: str, second: int) -> None:
    _, engine = hosted("t5")
    getattr(engine, call)(3)
    with pytest.raises(AdapterError, match=f"step {second} after step 3: count optimizer steps from 1"):
        getattr(engine, call)(second)
    getattr(engine, call)(4)


@pytest.mark.parametrize("call", ["reallocate", "update_and_allocate"])
def test_skipped_steps_end_at_the_target(call: str) -> None:
    """Allocations fall on even steps here; a loop that calls only on odd ones skips them all, but for the freeze."""
    model, engine = hosted("t5", penalty="step")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    for step in range(1, FREEZE + 4, 2):
        model(**batch(step)).loss.backward()
        optimizer.step()
        getattr(engine, call)(step)
        optimizer.zero_grad()
        if step < FREEZE:
            assert set(engine.ranks().values()) == {engine.schedule.init_r}
    assert engine.frozen
    assert sum(engine.ranks().values()) == engine.target_budget


@pytest.mark.parametrize("call", ["reallocate", "update_and_allocate"])
def test_steps_beyond_the_schedule(call: str) -> None:
    """The first call beyond it freezes, those after it change nothing."""
    _, engine = hosted("t5")
    total = engine.schedule.total_step
    getattr(engine, call)(total + 5)
    assert engine.frozen
    ranks = engine.ranks()
    assert sum(ranks.values()) == engine.target_budget
    getattr(engine, call)(total + 100)
    assert engine.ranks() == ranks


def test_a_run_that_never_calls_the_allocator(tmp_path: Path) -> None:
    """It trains at full rank, and saves what it has."""
    model, engine = hosted("t5", spread=0.2)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    for step in range(1, 4):
        model(**batch(step)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert set(engine.ranks().values()) == {engine.schedule.init_r}
    plain = reload(model, tmp_path, "t5")
    torch.testing.assert_close(logits(plain), logits(model.eval()), rtol=0, atol=1e-5)


def test_an_optimizer_made_before_attach() -> None:
    """It holds tensors that nothing uses any more, so it would train nothing without a word."""
    model = adapted(base("t5"))
    early = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    attach(model)
    model(**batch(1)).loss.backward()
    early.step()
    with pytest.warns(
        UserWarning, match=r"an optimizer made too early, which trains nothing; make it after attach\(\)"
    ):
        model.base_model.update_and_allocate(1)
    model.base_model.update_and_allocate(2)  # said once
    copied = copy.deepcopy(model)
    copied(**batch(3)).loss.backward()
    copied.base_model.update_and_allocate(3)


def test_moved_after_attach() -> None:
    """To another device (the one without memory stands for a GPU): all that the engine holds goes along."""
    model, engine = hosted("t5", penalty="step")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_paper(model, engine, optimizer, range(1, 9))
    assert engine.averages is not None
    model.to("meta")
    assert engine.keep is not None
    held = [*engine.parameters(), engine.keep, *engine.averages.sensitivity, *engine.averages.uncertainty]
    held += [bank.triplets for bank in engine.store.banks]
    held += [
        tensor
        for layout in engine.store.penalty_frames
        for tensor in vars(layout).values()
        if tensor is not None and isinstance(tensor, torch.Tensor)
    ]
    assert {tensor.device.type for tensor in held} == {"meta"}
    for parameter in engine.parameters():
        parameter.grad = torch.zeros_like(parameter)
    engine.observe()
    assert engine.reallocate(10) is not None
    assert engine.keep.device.type == "meta"


def test_compaction_before_the_freeze() -> None:
    _, engine = hosted("t5")
    with pytest.raises(AdapterError, match=f"nothing is final before step {FREEZE}"):
        engine.compact()
    engine.reallocate(10)
    with pytest.raises(AdapterError, match=r"call compact\(\) after it"):
        engine.compact()


class Factored(torch.optim.Optimizer):
    """Keeps row and column means, as Adafactor does."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 1e-3})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in self.param_groups[0]["params"]:
            if parameter.grad is not None:
                self.state[parameter] = {"step": 1, "exp_avg_sq_row": parameter.grad.square().mean(-1)}


def test_compaction_with_a_state_that_it_does_not_understand() -> None:
    model, engine = hosted("t5")
    optimizer = Factored(engine.parameters())
    steps_of_peft(model, optimizer, range(1, FREEZE + 1))
    before = [parameter.shape for parameter in engine.parameters()]
    with pytest.raises(AdapterError, match="does not understand the state 'exp_avg_sq_row' of Factored"):
        engine.compact(optimizer)
    assert [parameter.shape for parameter in engine.parameters()] == before, "refused before anything was changed"


def test_compaction_with_an_optimizer_of_other_parameters() -> None:
    model, engine = hosted("t5")
    steps_of_peft(model, OPTIMIZERS["adamw"](engine.parameters()), range(1, FREEZE + 1))
    other = torch.optim.AdamW([nn.Parameter(torch.zeros(2))])
    with pytest.raises(AdapterError, match=r"does not train lora_E; pass the one that does"):
        engine.compact(other)
    with pytest.raises(AdapterError, match="needs a torch optimizer, got int"):
        engine.compact(3)


def test_the_penalty_counted_twice() -> None:
    _, engine = hosted("t5")
    with pytest.raises(AdapterError, match=r'attach\(model, penalty="step"\)'):
        engine.add_orthogonality_gradient()


def test_adapters_that_the_engine_holds(tmp_path: Path) -> None:
    model, engine = hosted("t5", spread=0.2)
    steps_of_peft(model, OPTIMIZERS["adamw"](engine.parameters()), range(1, FREEZE + 1))
    model.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match=r"detach\(model\) before deleting"):
        model.delete_adapter("default")
    with pytest.raises(AdapterError, match="cannot be loaded over 'default'"):
        model.load_adapter(tmp_path, adapter_name="default")
    model(**batch(0)).loss.backward()


@pytest.mark.parametrize(
    "error", [lambda: attach(base("t5")), lambda: hosted("t5")[1].compact(), lambda: hosted("t5")[1].compact(3)]
)
def test_each_is_one_line(error: Any) -> None:
    with pytest.raises(AdapterError) as raised:
        error()
    assert "\n" not in str(raised.value)
