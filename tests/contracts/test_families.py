"""Further encoder-decoder families: a short run equals PEFT's, and reloads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from tests.adapter.test_targets import CONFIGS
from tests.adapter.tiny import OPTIMIZERS, Trace, adapted, batch, live
from transformers import AutoModelForSeq2SeqLM

from spectune.adapter.peft_host import attach

SHORT: dict[str, Any] = {"total_step": 6, "tinit": 1, "tfinal": 2, "deltaT": 1, "init_r": 2, "target_r": 1}


def run(model: Any, optimizer: torch.optim.Optimizer) -> Trace:
    trace = Trace()
    for step in range(1, SHORT["total_step"] + 1):
        tokens = {key: value % 50 for key, value in batch(step, source=8).items()}
        loss = model(**tokens).loss
        loss.backward()
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        trace.losses.append(float(loss.detach()))
        trace.live.append(live(model))
    return trace


@pytest.mark.filterwarnings("ignore:.*rank_pattern keys did not match")
@pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")
@pytest.mark.parametrize("name", ["led", "pegasus", "marian", "mbart"])
def test_a_short_run(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = copy.deepcopy(CONFIGS[name][0])
    for option in ("dropout", "attention_dropout", "activation_dropout"):
        setattr(config, option, 0.0)
    config.init_std = 0.2
    base = AutoModelForSeq2SeqLM.from_config(config)
    plain, model = (adapted(copy.deepcopy(base), **SHORT) for _ in range(2))
    expected = run(plain, OPTIMIZERS["adamw"]([p for p in plain.parameters() if p.requires_grad]))
    found = run(model, OPTIMIZERS["adamw"](attach(model).parameters()))
    assert found.losses == pytest.approx(expected.losses, abs=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(found.live, expected.live, strict=True))
    model.save_pretrained(tmp_path)
    reloaded = PeftModel.from_pretrained(base, tmp_path)
    tokens = {key: value % 50 for key, value in batch(99, source=8).items()}
    with torch.no_grad():
        inputs = {"input_ids": tokens["input_ids"], "decoder_input_ids": tokens["labels"]}
        torch.testing.assert_close(model.eval()(**inputs).logits, reloaded(**inputs).logits, rtol=0, atol=1e-5)
