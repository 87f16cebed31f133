"""An adapter's name, from creation over training and pruning to plain PEFT's reload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tests.adapter.tiny import OPTIMIZERS, adapted, base, logits, reload, steps_of_paper

from spectune.adapter.peft_host import attach
from spectune.config import AdapterConfig

FAMILIES = ("t5", "gated_t5", "bart")
ACCEPTED = """
    en de a e q k v o wi wo fc1 layer layers encoder decoder model block base base_layer base_model lm_head shared
    SelfAttention self_attn encoder_attn final_layer_norm 0 1 00 2024-11-25 lora lora_ lora_A lora_B lora_E my_lora_1
    default default2 Default weight bias task task2 adapter rank ranknum module dropout q_proj README triplet_banks rows
""".split()
REFUSED = ("train", "type", "keys", "forward", "_hidden", "a.b", "../up", "two words")
_SCHEDULE: dict[str, Any] = {"total_step": 4, "tinit": 1, "tfinal": 1, "deltaT": 1}


def check_name(name: str, family: str, directory: Path) -> None:
    """Fails where the name does not survive: creation, four steps through the phases, export, plain PEFT."""
    assert AdapterConfig(adapter_name=name).adapter_name == name
    model = adapted(base(family), name, **_SCHEDULE)
    engine = attach(model, penalty="step")
    optimizer = OPTIMIZERS["fused"](engine.parameters())
    steps_of_paper(model, engine, optimizer, range(1, 4))
    engine.compact(optimizer)
    steps_of_paper(model, engine, optimizer, [4])
    assert sum(engine.ranks().values()) == engine.target_budget
    model.eval()
    expected = logits(model)
    with model.disable_adapter():
        assert not torch.equal(expected, logits(model)), "the adapter does something"
    again = reload(model, directory, family, name)
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=1e-5)
