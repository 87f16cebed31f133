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
from spectune.adapter.targets import default_targets

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


def without_dropout(name: str) -> Any:
    torch.manual_seed(0)
    config: Any = copy.deepcopy(CONFIGS[name][0])
    config.dropout = config.attention_dropout = config.activation_dropout = 0.0
    config.init_std = 0.2
    return AutoModelForSeq2SeqLM.from_config(config)


@pytest.mark.filterwarnings("ignore:.*rank_pattern keys did not match")
@pytest.mark.filterwarnings("ignore:.*LoRA tensor.* have invalid shape")
@pytest.mark.parametrize("name", ["led", "pegasus", "marian", "mbart"])
def test_a_short_run(name: str, tmp_path: Path) -> None:
    base = without_dropout(name)
    # PEFT cannot train a matrix that has no gradient in a step, as LED's for global attention
    targets = [target for target in default_targets(base) if not target.endswith("_global")]
    plain, model = (adapted(copy.deepcopy(base), target_modules=targets, **SHORT) for _ in range(2))
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


def test_matrices_that_never_have_a_gradient() -> None:
    model = adapted(without_dropout("led"), **SHORT, orth_reg_weight=0.0)  # the penalty would be a gradient
    engine = attach(model)
    run(model, OPTIMIZERS["adamw"](engine.parameters()))
    ranks = engine.ranks()
    assert sum(ranks.values()) == engine.target_budget
    assert [rank for name, rank in ranks.items() if name.endswith("_global")] == [0] * 6
