"""The live model, the reloaded adapter, plain PEFT's load, the merged and the detached model say the same."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from tests.adapter.tiny import (
    FREEZE,
    OPTIMIZERS,
    base,
    batch,
    entries,
    generated,
    hosted,
    load_plain,
    logits,
    reload,
    steps_of_peft,
)
from torch import Tensor

from spectune.adapter.peft_host import attach, detach

STAGES = {"warm-up": 3, "decrease": 9, "frozen": FREEZE + 1, "compacted": FREEZE + 1}


def trained(family: str, stage: str) -> tuple[Any, Any]:
    """An attached model after some steps, in evaluation mode."""
    model, engine = hosted(family, spread=0.3)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, STAGES[stage] + 1))
    if stage == "compacted":
        assert engine.compact(optimizer) > 0
    model.eval()
    return model, engine


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_every_form_of_the_adapter(family: str, stage: str, tmp_path: Path) -> None:
    model, _ = trained(family, stage)
    expected, tokens, untouched = logits(model), generated(model), logits(base(family).eval())
    assert (expected - untouched).abs().max() > 1e-2, "the adapter does something"

    plain = reload(model, tmp_path, family)
    assert_same(logits(plain), expected)
    assert torch.equal(generated(plain), tokens)

    again = load_plain(family, tmp_path, is_trainable=True)
    attach(again)
    assert_same(logits(again.eval()), expected)

    with model.disable_adapter():
        assert torch.equal(logits(model), untouched)
    assert_same(logits(model), expected)

    model.merge_adapter()
    assert_same(logits(model), expected)
    model.unmerge_adapter()
    assert_same(logits(model), expected)

    merged = copy.deepcopy(model).merge_and_unload()
    assert_same(logits(merged), expected)
    assert type(merged) is type(base(family))
    assert b"spectune" not in pickle.dumps(merged), "the merged model knows nothing of the engine"

    assert_same(logits(detach(model)), expected)


def test_detached_is_plain_peft_that_saves_and_trains(tmp_path: Path) -> None:
    model, _ = trained("t5", "decrease")
    expected = logits(model)
    plain = detach(model)
    assert not any("spectune" in type(module).__module__ for module in plain.modules())
    assert_same(logits(reload(plain, tmp_path, "t5")), expected)
    optimizer = OPTIMIZERS["adamw"]([p for p in plain.parameters() if p.requires_grad])
    trace = steps_of_peft(plain.train(), optimizer, range(10, FREEZE + 3))
    assert trace.live[-1].sum() == len(trace.live[-1]) // 2


@pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")  # what PEFT says of rank 0
def test_detached_after_compaction_saves(tmp_path: Path) -> None:
    model, _ = trained("t5", "compacted")
    expected = logits(model)
    assert_same(logits(reload(detach(model), tmp_path, "t5")), expected)


@pytest.mark.parametrize("stage", ["warm-up", "compacted"])
def test_state_dict_holds_copies_under_peft_s_names(stage: str, tmp_path: Path) -> None:
    model, engine = trained("bart", stage)
    state = {key: value for key, value in model.state_dict().items() if "lora_" in key}
    assert len(state) == 3 * len(engine.ranks())
    assert not any("bank" in key for key in state)
    save(state)  # refuses tensors that share storage or are not contiguous
    model.save_pretrained(tmp_path)
    file = load_file(tmp_path / "adapter_model.safetensors")
    kept = sum(map(sum, engine.saved()))
    assert sum(value.shape[0] for key, value in file.items() if key.endswith("lora_E")) == kept


@pytest.mark.parametrize("assign", [False, True])
def test_load_state_dict_reaches_the_banks(assign: bool) -> None:
    model, _ = trained("t5", "decrease")
    expected, saved = logits(model), copy.deepcopy(model.state_dict())
    other, engine = hosted("t5")
    logits(other.eval())
    other.load_state_dict(saved, assign=assign)
    assert_same(logits(other), expected)
    assert torch.equal(engine.store.values.rows, torch.cat([e.flatten() for e in entries(other, "lora_E").values()]))


def test_numbers_of_parameters() -> None:
    model, engine = hosted("bart")
    trainable, total = model.get_nb_trainable_parameters()
    assert trainable == sum(p.numel() for p in engine.parameters())
    assert total == trainable + sum(p.numel() for p in base("bart").parameters()) + len(
        engine.ranks()
    )  # PEFT's ranknum
    optimizer = OPTIMIZERS["adamw"](model.parameters())
    steps_of_peft(model, optimizer, range(1, FREEZE + 1))
    engine.compact(optimizer)
    fewer, _ = model.get_nb_trainable_parameters()
    assert fewer == sum(p.numel() for p in engine.parameters()) < trainable
    assert {p for p in model.parameters() if p.requires_grad} == set(engine.parameters())
    loss = model(**batch(0)).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in engine.parameters())
