"""`accelerator.save_state` and `load_state` with the engine registered: before the freeze, after it, compacted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from tests.adapter.tiny import FREEZE, LAST, adapted, base, batch
from torch import Tensor

import spectune
from spectune.errors import AdapterError

NARROW = ["q", "v", "wi"]  # some of these end at rank 0


class Loop:
    """A manual loop under accelerate."""

    def __init__(self, *, registered: bool = True, **changes: Any) -> None:
        AcceleratorState._reset_state(True)
        self.accelerator = Accelerator(cpu=True)
        model = adapted(base("t5"), spread=0.2, **changes)
        self.engine = spectune.attach(model)
        self.model, self.optimizer = self.accelerator.prepare(
            model, torch.optim.AdamW(self.engine.parameters(), lr=1e-2)
        )
        if registered:
            self.accelerator.register_for_checkpointing(self.engine)

    def train(self, first: int, last: int, *, compact: bool) -> None:
        self.model.train()
        for step in range(first, last + 1):
            self.accelerator.backward(self.model(**batch(step)).loss)
            self.optimizer.step()
            self.accelerator.unwrap_model(self.model).base_model.update_and_allocate(step)
            self.optimizer.zero_grad()
            if compact and step == FREEZE:
                self.engine.compact(self.optimizer)

    def weights(self) -> list[Tensor]:
        return [parameter.detach().clone() for parameter in self.engine.parameters()]


@pytest.mark.parametrize("targets", [None, NARROW], ids=["all", "some end at rank 0"])
@pytest.mark.parametrize(("at", "compact"), [(8, False), (FREEZE + 2, False), (FREEZE + 2, True)])
def test_resumed_is_the_loop_that_was_not_stopped(at: int, compact: bool, targets: Any, tmp_path: Path) -> None:
    changes = {} if targets is None else {"target_modules": targets, "target_r": 1}
    whole = Loop(**changes)
    whole.train(1, at, compact=compact)
    whole.accelerator.save_state(str(tmp_path))
    if targets is not None and compact:
        assert 0 in whole.engine.ranks().values()
    whole.train(at + 1, LAST, compact=compact)
    resumed = Loop(**changes)
    if compact:
        with pytest.raises(AdapterError, match=r"run was compacted; call engine.load_state_dict\(\)"):
            resumed.accelerator.load_state(str(tmp_path))
        resumed = Loop(**changes)
        resumed.engine.load_state_dict(torch.load(tmp_path / "custom_checkpoint_0.pkl"))
    resumed.accelerator.load_state(str(tmp_path))
    resumed.train(at + 1, LAST, compact=compact)
    assert resumed.engine.ranks() == whole.engine.ranks()
    for here, there in zip(resumed.weights(), whole.weights(), strict=True):
        assert torch.equal(here, there)


def test_without_the_state_of_the_engine_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = Loop(registered=False)
    with caplog.at_level(logging.WARNING, "spectune"):
        whole.train(1, 6, compact=False)
    assert "first call" not in caplog.text
    whole.accelerator.save_state(str(tmp_path))
    resumed = Loop(registered=False)
    resumed.accelerator.load_state(str(tmp_path))
    with caplog.at_level(logging.WARNING, "spectune"):
        resumed.train(7, 8, compact=False)
    assert caplog.text.count("first call is for step 7: after a resume call engine.load_state_dict()") == 1
