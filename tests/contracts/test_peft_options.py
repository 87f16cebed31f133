"""The rest of PEFT's options that apply to AdaLoRA: trained beside the banks, in PEFT's numbers, saved and reloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.adapter.tiny import LAST, OPTIMIZERS, adapted, base, logits, steps_of_peft

from spectune.adapter.peft_host import attach

CASES: list[tuple[str, dict[str, Any]]] = [
    ("bart", {"bias": "all"}),
    ("bart", {"bias": "lora_only"}),
    ("t5", {"trainable_token_indices": [5, 7]}),
    ("bart", {"trainable_token_indices": [5, 7]}),
    ("t5", {"layers_to_transform": [1], "layers_pattern": "block"}),
    ("bart", {"layers_to_transform": [1], "layers_pattern": "layers"}),
    ("t5", {"modules_to_save": ["lm_head"]}),
    ("bart", {"modules_to_save": ["final_layer_norm"]}),
]


@pytest.mark.filterwarnings("ignore:.*(tied|bias).*:UserWarning")
@pytest.mark.parametrize(("family", "changes"), CASES, ids=str)
def test_as_in_peft(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    plain = adapted(base(family, layers=2), **changes)
    trained = [parameter for parameter in plain.parameters() if parameter.requires_grad]
    expected = steps_of_peft(plain, OPTIMIZERS["adamw"](trained), range(1, LAST))
    model = adapted(base(family, layers=2), **changes)
    engine = attach(model)
    ours = steps_of_peft(model, OPTIMIZERS["adamw"](engine.parameters()), range(1, LAST))
    assert ours.losses == pytest.approx(expected.losses, abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(ours.live, expected.live, strict=True))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(family, layers=2), tmp_path)
    torch.testing.assert_close(logits(model.eval()), logits(loaded), rtol=0, atol=1e-5)
