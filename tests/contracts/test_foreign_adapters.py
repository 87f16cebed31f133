"""AdaLoRA adapters made by plain PEFT: attached, they evaluate equally and train on to their target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.adapter.tiny import (
    FREEZE,
    LAST,
    OPTIMIZERS,
    adapted,
    base,
    generated,
    load_plain,
    logits,
    reload,
    steps_of_peft,
)

from spectune.adapter.peft_host import attach

pytestmark = pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")  # what PEFT says of rank 0
STAGES = {"warm-up": 3, "decrease": 10, "end": LAST - 1}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_trained_pruned_and_saved_by_peft(family: str, stage: str, tmp_path: Path) -> None:
    made = adapted(base(family))
    trainable = [parameter for parameter in made.parameters() if parameter.requires_grad]
    steps_of_peft(made, OPTIMIZERS["adamw"](trainable), range(1, STAGES[stage] + 1))
    made.save_pretrained(tmp_path / "peft")
    plain = load_plain(family, tmp_path / "peft")
    expected, tokens = logits(plain), generated(plain)

    model = load_plain(family, tmp_path / "peft", is_trainable=True)
    engine = attach(model)
    torch.testing.assert_close(logits(model.eval()), expected, rtol=0, atol=1e-5)
    assert torch.equal(generated(model), tokens)
    if stage == "end":
        assert engine.initial_budget == engine.target_budget == 2 * len(engine.ranks())
        assert len(set(engine.ranks().values())) > 1, "ranks differ"

    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model.train(), optimizer, range(STAGES[stage] + 1, max(STAGES[stage], FREEZE) + 3))
    assert engine.frozen
    assert sum(engine.ranks().values()) == engine.target_budget
    engine.compact(optimizer)
    again = reload(model, tmp_path / "ours", family)
    torch.testing.assert_close(logits(again), logits(model.eval()), rtol=0, atol=1e-5)


def test_slots_are_those_of_the_first_run(tmp_path: Path) -> None:
    """The rank pattern of a continued run still speaks of the init_r slots that PEFT's file speaks of."""
    made = adapted(base("t5"))
    trainable = [parameter for parameter in made.parameters() if parameter.requires_grad]
    steps_of_peft(made, OPTIMIZERS["adamw"](trainable), range(1, LAST))
    made.save_pretrained(tmp_path)
    pattern = dict(made.peft_config["default"].rank_pattern)
    model = load_plain("t5", tmp_path, is_trainable=True)
    attach(model)
    model.save_pretrained(tmp_path / "again")
    config = model.peft_config["default"]
    assert config.rank_pattern == {key.replace(".default", ""): slots for key, slots in pattern.items()}


def test_an_adapter_that_became_trainable_later(tmp_path: Path) -> None:
    """Loaded for inference first, then a second one to train: PEFT never names it, the engine finds it."""
    adapted(base("t5"), spread=0.3).save_pretrained(tmp_path)
    model = load_plain("t5", tmp_path)
    model.load_adapter(tmp_path, adapter_name="second", is_trainable=True)
    model.set_adapter("second")
    before = logits(model)
    engine = attach(model)
    assert engine.store.adapter_name == "second"
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    trace = steps_of_peft(model.train(), OPTIMIZERS["adamw"](engine.parameters()), range(1, LAST), name="second")
    assert trace.live[-1].sum() == engine.target_budget
