"""A training step reads the device no more often than the frozen base, and costs few operations beyond it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from benchmarks.operations import Operations
from tests.adapter.tiny import FREEZE, LAST, adapted, base, batch

from spectune.adapter.peft_host import attach


def of_the_frozen_base(
    family: str, layers: int, *, dtype: torch.dtype = torch.float32, checkpointing: bool = False
) -> Operations:
    """Forward and backward with gradients of activations only, as below an adapter."""
    model = base(family, layers, dtype=dtype).train()
    model.requires_grad_(False)
    model.enable_input_require_grads()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    seen = Operations()
    with seen:
        model(**batch(1)).loss.backward()
    return seen


@pytest.mark.parametrize("order", ["paper", "peft"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_no_reads_beyond_those_of_the_base(family: str, order: str) -> None:
    frozen = of_the_frozen_base(family, 1).reads
    model: Any = adapted(base(family))
    engine = attach(model, penalty="step" if order == "paper" else "loss")
    optimizer = torch.optim.AdamW(engine.parameters(), lr=1e-3, fused=True)
    skip = torch.tensor(False)
    allocating = 0
    for step in range(1, LAST):
        tokens = batch(step)
        with Operations() as seen:
            model(**tokens).loss.backward()
            if order == "paper":
                engine.add_orthogonality_gradient()
                engine.observe(skip)
            optimizer.step()
            if order == "paper":
                allocating += engine.reallocate(step) is not None
            else:
                engine.update_and_allocate(step, skip)
                allocating += engine.schedule.allocates(step)
            optimizer.zero_grad(set_to_none=True)
        assert seen.reads == frozen, f"step {step}: {seen.count}"
    assert allocating == len(range(6, FREEZE + 1, 2))
    with Operations() as seen:
        engine.compact(optimizer)
    assert seen.reads > 0, "the count sees a read where there is one"


@pytest.mark.parametrize(("order", "most"), [("paper", 12), ("peft", 12)])
def test_operations_beyond_the_frozen_base(order: str, most: int, capsys: pytest.CaptureFixture[str]) -> None:
    frozen = of_the_frozen_base("bart", 2).total
    model: Any = adapted(base("bart", 2))
    engine = attach(model, penalty="step" if order == "paper" else "loss")
    optimizer = torch.optim.AdamW(engine.parameters(), lr=1e-3, fused=True)
    beyond = {}
    for step in range(1, LAST):
        tokens = batch(step)
        with Operations() as seen:
            model(**tokens).loss.backward()
            if order == "paper":
                engine.add_orthogonality_gradient()
                engine.observe()
            optimizer.step()
            engine.reallocate(step) if order == "paper" else engine.update_and_allocate(step)
            optimizer.zero_grad(set_to_none=True)
        beyond[step] = (seen.total - frozen) / len(engine.store.matrices)
        if step == FREEZE:
            engine.compact(optimizer)
    named = {"warm-up": 3, "decrease": 9, "allocation": 10, "freeze": FREEZE, "compacted": LAST - 1}
    with capsys.disabled():
        numbers = ", ".join(f"{name} {beyond[step]:.1f}" for name, step in named.items())
        print(f"\n{order}: operations beyond the frozen base per matrix ({len(engine.store.matrices)}): {numbers}")
    assert beyond[3] <= most
    assert beyond[9] <= most
    assert beyond[LAST - 1] <= most
    assert (beyond[10] - beyond[9]) * len(engine.store.matrices) <= 30
