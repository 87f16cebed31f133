"""`torch.compile` of the model: the parts are made outside the graph, everything else inside; results are eager's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tests.adapter.tiny import batch, hosted
from torch._dynamo.utils import counters

# torch's compiler looks at `.grad` of every input of a graph, and warns of its own look at those that are no leaves
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")

STEPS = range(5, 8)  # the second one allocates


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


def losses(engine: Any, forward: Any, steps: range, order: str) -> list[torch.Tensor]:
    """A short run with `forward` in the model's place."""
    optimizer = torch.optim.AdamW(engine.parameters(), lr=1e-2, fused=True)
    found = []
    for step in steps:
        loss = forward(**batch(step)).loss
        loss.backward()
        if order == "paper":
            engine.add_orthogonality_gradient()
            engine.observe()
        optimizer.step()
        engine.reallocate(step) if order == "paper" else engine.update_and_allocate(step)
        optimizer.zero_grad()
        found.append(loss.detach())
    return found


@pytest.mark.parametrize(("family", "order"), [("t5", "paper"), ("bart", "peft")])
def test_one_break_and_the_same_numbers(family: str, order: str) -> None:
    penalty = "step" if order == "paper" else "loss"
    model, engine = hosted(family, penalty=penalty, spread=0.1)
    other, plain = hosted(family, penalty=penalty, spread=0.1)
    found = losses(engine, torch.compile(model, backend="eager"), STEPS, order)
    assert sum(counters["graph_break"].values()) <= 1, dict(counters["graph_break"])
    assert counters["stats"]["unique_graphs"] <= 3, "no layer is compiled anew for its own parts"
    torch.testing.assert_close(found, losses(plain, other, STEPS, order))
    for bank, expected in zip(engine.store.banks, plain.store.banks, strict=True):
        torch.testing.assert_close(bank.rows, expected.rows)
