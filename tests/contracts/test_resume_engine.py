"""Engine and optimizer, saved at any step and restored into a freshly attached model, go on bit for bit."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from tests.adapter.tiny import FREEZE, OPTIMIZERS, hosted, steps_of_paper, steps_of_peft
from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine
from spectune.errors import AdapterError

STEPS = {"warm-up": 3, "decrease": 9, "before the freeze": FREEZE - 1, "frozen": FREEZE, "later": FREEZE + 3}
AFTER = 4


def advance(order: str, model: Any, engine: AdaLoraEngine, optimizer: torch.optim.Optimizer, steps: range) -> None:
    if order == "peft":
        steps_of_peft(model, optimizer, steps)
        return
    for step in steps:
        steps_of_paper(model, engine, optimizer, [step])
        if order == "compacting" and engine.frozen:
            engine.compact(optimizer)


def everything(engine: AdaLoraEngine, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of a run by name: banks, averages, mask, scores, moments."""
    found = dict(engine.state_dict()["tensors"])
    for number, parameter in enumerate(engine.parameters()):
        found |= {
            f"{number}.{key}": value for key, value in optimizer.state[parameter].items() if isinstance(value, Tensor)
        }
    return found


def through_files(engine: AdaLoraEngine, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Both states as files give them back: JSON, and tensors loaded without pickle."""
    saved = engine.state_dict()
    file = io.BytesIO()
    torch.save((saved["tensors"], optimizer.state_dict()), file)
    file.seek(0)
    tensors, moments = torch.load(file, weights_only=True)
    return {"meta": json.loads(json.dumps(saved["meta"])), "tensors": tensors}, moments


@pytest.mark.parametrize("stage", STEPS)
@pytest.mark.parametrize(
    ("order", "optimizer", "changes"),
    [
        ("peft", "adamw", {}),
        ("paper", "fused", {"importance": "triplet"}),
        ("compacting", "adamw", {}),
        ("compacting", "momentum", {"pruning": "permanent"}),
    ],
)
def test_bit_for_bit(order: str, optimizer: str, changes: dict[str, Any], stage: str) -> None:
    if order != "peft":
        changes = {**changes, "penalty": "step"}
    stop = STEPS[stage]
    model, engine = hosted("t5", **changes)
    steps = OPTIMIZERS[optimizer](engine.parameters())
    advance(order, model, engine, steps, range(1, stop + 1))
    state, moments = through_files(engine, steps)
    advance(order, model, engine, steps, range(stop + 1, stop + 1 + AFTER))

    other, resumed = hosted("t5", **changes)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.normal_()  # nothing of the start may matter
    resumed.load_state_dict(state)
    again = OPTIMIZERS[optimizer](resumed.parameters())
    again.load_state_dict(moments)
    advance(order, other, resumed, again, range(stop + 1, stop + 1 + AFTER))

    expected, found = everything(engine, steps), everything(resumed, again)
    assert expected.keys() == found.keys()
    different = [
        name for name, tensor in expected.items() if not torch.equal(tensor.nan_to_num(), found[name].nan_to_num())
    ]
    assert not different
    assert resumed.ranks() == engine.ranks()
    assert resumed.state_dict()["meta"] == engine.state_dict()["meta"]


def test_a_state_is_a_copy() -> None:
    model, engine = hosted("t5", penalty="step")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_paper(model, engine, optimizer, range(1, 8))
    saved = engine.state_dict()["tensors"]
    before = {name: tensor.clone() for name, tensor in saved.items()}
    steps_of_paper(model, engine, optimizer, range(8, 10))
    assert all(torch.equal(before[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"total_step": 30}, "schedule"), ({"pruning": "permanent"}, "options"), ({"target_modules": ["q"]}, "matrices")],
)
def test_the_state_of_another_run_is_refused(changes: dict[str, Any], word: str) -> None:
    _, engine = hosted("t5")
    _, other = hosted("t5", **changes)
    with pytest.raises(AdapterError, match=f"another {word}"):
        other.load_state_dict(engine.state_dict())


def test_a_compacted_engine_takes_no_earlier_state() -> None:
    _, engine = hosted("t5")
    early = engine.state_dict()
    engine.reallocate(FREEZE)
    engine.compact()
    with pytest.raises(AdapterError, match="attach afresh"):
        engine.load_state_dict(early)
