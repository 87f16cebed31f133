"""Our own order of a step equals the plain reference written from the paper, through compaction."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.adapter.tiny import FREEZE, LAST, OPTIMIZERS, base, batch, hosted, steps_of_paper
from tests.reference.paper_adalora import PaperAdaLora, Triplets
from torch import Tensor, nn

from spectune.adapter.engine import AdaLoraEngine


def reference(family: str, engine: AdaLoraEngine) -> tuple[Any, PaperAdaLora]:
    """The same start as the engine's, in modules of the reference."""
    model = base(family)
    layers = []
    for matrix in engine.store.matrices:
        p, values, q = (
            getattr(matrix.layer, kind)["default"].detach().clone() for kind in ("lora_B", "lora_E", "lora_A")
        )
        layer = Triplets(model.get_submodule(matrix.name), p.contiguous(), values.flatten(), q, engine.store.scale)
        parent, _, leaf = matrix.name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, layer)
        layers.append(layer)
    model.requires_grad_(False)
    options = engine.options
    paper = PaperAdaLora(layers, engine.schedule, options.beta1, options.beta2, options.orth_reg_weight)
    for parameter in paper.parameters:
        parameter.requires_grad_(True)
    return model, paper


def steps_of_reference(
    model: nn.Module, paper: PaperAdaLora, optimizer: torch.optim.Optimizer, *, max_norm: float | None
) -> tuple[list[float], list[Tensor]]:
    losses, live = [], []
    for step in range(1, LAST):
        loss = model(**batch(step)).loss
        (loss + paper.penalty()).backward()
        paper.observe()
        if max_norm is not None:
            if paper.frozen:
                for layer in paper.layers:
                    assert layer.values.grad is not None
                    layer.values.grad[~layer.alive] = 0.0  # what no longer exists has no part in the norm
            torch.nn.utils.clip_grad_norm_(paper.parameters, max_norm)
        optimizer.step()
        paper.allocate(step)
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
        live.append(torch.cat([layer.alive.clone() for layer in paper.layers]))
    return losses, live


@pytest.mark.parametrize(
    ("family", "optimizer", "compact", "max_norm"),
    [
        ("t5", "adamw", True, None),
        ("t5", "adamw", True, 0.3),
        ("t5", "adamw", False, 0.3),
        ("bart", "adamw", True, None),
        ("bart", "fused", True, 0.3),
        ("bart", "momentum", False, None),
        ("gated_t5", "momentum", True, None),
    ],
)
def test_step_for_step(family: str, optimizer: str, compact: bool, max_norm: float | None) -> None:
    model, engine = hosted(family, penalty="step")
    plain, paper = reference(family, engine)
    expected, live = steps_of_reference(plain, paper, OPTIMIZERS[optimizer](paper.parameters), max_norm=max_norm)

    ours = OPTIMIZERS[optimizer](engine.parameters())
    losses, slots = [], torch.arange(engine.initial_budget)
    for step in range(1, LAST):
        losses += steps_of_paper(model, engine, ours, [step], max_norm=max_norm)
        alive = torch.zeros(engine.initial_budget, dtype=torch.bool)
        kept = torch.ones(len(slots), dtype=torch.bool) if engine.keep is None else engine.keep
        alive[slots[kept]] = True
        assert torch.equal(alive, live[step - 1]), f"live sets differ after step {step}"
        if step == FREEZE and compact:
            assert engine.compact(ours) == engine.initial_budget - engine.target_budget
            slots = slots[kept]
    assert losses == pytest.approx(expected, abs=1e-5)
    assert engine.initial_budget == 2 * engine.target_budget, "something was pruned"
