"""In PEFT's call order an attached model is PEFT's AdaLoRA, step for step; its saved adapters are PEFT's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from peft import PeftConfig
from tests.adapter.tiny import (
    FREEZE,
    LAST,
    OPTIMIZERS,
    Trace,
    adapted,
    base,
    generated,
    logits,
    reload,
    steps_of_peft,
)

from spectune.adapter.peft_host import attach


@cache
def of_peft(family: str, optimizer: str, first: int = 1, micro_batches: int = 1) -> Trace:
    """The run of plain PEFT."""
    model = adapted(base(family))
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return steps_of_peft(model, OPTIMIZERS[optimizer](trainable), range(first, LAST), micro_batches=micro_batches)


def assert_same(ours: Trace, peft: Trace) -> None:
    assert ours.losses == pytest.approx(peft.losses, abs=1e-5)
    different = [step for step, (a, b) in enumerate(zip(ours.live, peft.live, strict=True)) if not torch.equal(a, b)]
    assert not different, f"live sets differ after steps {different}"
    assert ours.live[-1].sum() == len(ours.live[-1]) // 2, "the run ends at the target"


@pytest.mark.parametrize(
    ("family", "optimizer", "over"),
    [
        *((family, "adamw", over) for family in ("t5", "gated_t5", "bart") for over in ("engine", "model")),
        ("t5", "fused", "engine"),
        ("bart", "fused", "model"),
        ("t5", "nadam", "model"),
        ("bart", "momentum", "engine"),
    ],
)
def test_losses_and_live_sets(family: str, optimizer: str, over: str) -> None:
    model: Any = adapted(base(family))
    engine = attach(model)
    parameters = engine.parameters() if over == "engine" else model.parameters()
    ours = steps_of_peft(model, OPTIMIZERS[optimizer](parameters), range(1, LAST))
    assert_same(ours, of_peft(family, optimizer))
    assert engine.allocator_calls == LAST - 1


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_gradient_accumulation(family: str) -> None:
    model = adapted(base(family))
    optimizer = OPTIMIZERS["adamw"](attach(model).parameters())
    ours = steps_of_peft(model, optimizer, range(1, LAST), micro_batches=2)
    assert_same(ours, of_peft(family, "adamw", micro_batches=2))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_gradient_checkpointing(family: str, reentrant: bool) -> None:
    plain = base(family)
    plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    plain.enable_input_require_grads()
    model = adapted(plain)
    assert any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
    ours = steps_of_peft(model, OPTIMIZERS["adamw"](attach(model).parameters()), range(1, LAST))
    assert_same(ours, of_peft(family, "adamw"))


def test_steps_counted_from_zero() -> None:
    model = adapted(base("t5"))
    ours = steps_of_peft(model, OPTIMIZERS["adamw"](attach(model).parameters()), range(LAST))
    assert_same(ours, of_peft("t5", "adamw", first=0))


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_saved_at_any_time(family: str, tmp_path: Path) -> None:
    model = adapted(base(family))
    checked = []

    def check(step: int) -> None:
        if step % 4 not in (0, 1):
            return
        plain = reload(model, tmp_path / str(step), family)
        model.eval()
        torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-5)
        assert torch.equal(generated(model), generated(plain))
        model.train()
        checked.append(step)

    ours = steps_of_peft(model, OPTIMIZERS["adamw"](attach(model).parameters()), range(1, LAST), after=check)
    assert_same(ours, of_peft(family, "adamw"))
    assert {1, 8, FREEZE, 24} <= set(checked)
    assert (logits(model) - logits(base(family))).abs().max() > 0.1, "training did something"


@pytest.mark.parametrize("name", ["en", "lora", "e"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_other_adapter_names(family: str, name: str, tmp_path: Path) -> None:
    """PEFT finds its entries by substrings: `en` is in `encoder`, `lora` and `e` are everywhere."""
    model = adapted(base(family), name)
    ours = steps_of_peft(model, OPTIMIZERS["adamw"](attach(model).parameters()), range(1, LAST), name=name)
    assert_same(ours, of_peft(family, "adamw"))
    plain = reload(model, tmp_path, family, name)
    torch.testing.assert_close(logits(model.eval()), logits(plain), rtol=0, atol=1e-5)
    pattern = cast(Any, PeftConfig.from_pretrained(str(tmp_path / name))).rank_pattern
    assert sum(map(sum, pattern.values())) == ours.live[-1].sum()
