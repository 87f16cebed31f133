"""Training that never calls the allocator keeps every rank: the commonest silent failure of AdaLoRA."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from spectune.adapter.engine import AdaLoraEngine

STEPS_IN_SILENCE = 10  # PEFT's documentation asks for a call at every step


class AllocatorWatch:
    """Counts accumulation windows since the allocator's last call, on the host: a window begins without gradients."""

    def __init__(self) -> None:
        self._calls, self._windows = 0, 0

    def forward_in_training(self, engine: AdaLoraEngine) -> None:
        """Called at every root forward in training mode; warns once if the windows go by and nothing is allocated."""
        if engine.frozen or engine.store.values.rows.grad is not None or not torch.is_grad_enabled():
            return
        if engine.allocator_calls != self._calls:
            self._calls, self._windows = engine.allocator_calls, 0
        self._windows += 1
        if self._windows == STEPS_IN_SILENCE + 1:
            warnings.warn(
                f"{STEPS_IN_SILENCE} steps without update_and_allocate(): AdaLoRA does not adapt its ranks; under "
                "transformers' Trainer pass callbacks=[spectune.AdaLoraCallback()], in a loop of your own call "
                "model.base_model.update_and_allocate(step) after optimizer.step()",
                stacklevel=2,
            )
