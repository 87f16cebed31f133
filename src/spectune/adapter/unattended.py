"""Training that does nothing, in silence: no call of the allocator, which keeps every rank, or a merged adapter."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor

from spectune.errors import AdapterError

_log = logging.getLogger("spectune")

STEPS_IN_SILENCE = 10  # PEFT's documentation asks for a call at every step


class AllocatorWatch:
    """Counts accumulation windows since the allocator's last call, on the host: a window begins without gradients."""

    def __init__(self) -> None:
        self._windows = 0
        self._told = False

    def answered(self) -> None:
        """The allocator was called, or what went before was no training."""
        self._windows = 0

    def forward_in_training(self, bank: Tensor, layer: Any, *, frozen: bool) -> None:
        """Called at every root forward in training mode; warns once if windows go by and nothing is allocated.

        Args:
            bank: one that gets gradients.
            layer: one of PEFT's, which are merged all or none.
            frozen: nothing is allocated any more.

        Raises:
            AdapterError: the adapter is merged.
        """
        if not torch.is_grad_enabled():
            return
        refuse_merged(layer)
        if frozen or bank.grad is not None:
            return
        self._windows += 1
        if self._windows == STEPS_IN_SILENCE + 1:
            warnings.warn(
                f"{STEPS_IN_SILENCE} steps without update_and_allocate(): AdaLoRA does not adapt its ranks; under "
                "transformers' Trainer pass callbacks=[spectune.AdaLoraCallback()], in a loop of your own call "
                "model.base_model.update_and_allocate(step) after optimizer.step()",
                stacklevel=2,
            )

    def saved(self, frozen: bool, last_step: int, freeze_step: int) -> None:
        """A save before the freeze has ranks that are not final; a checkpoint may, so it is logged, loudly but once."""
        if frozen:
            return
        _log.log(
            logging.INFO if self._told else logging.WARNING,
            "saved after step %d, before the freeze at step %d: the ranks are not final and above their target",
            max(last_step, 0),
            freeze_step,
        )
        self._told = True


def refuse_merged(layer: Any) -> None:
    """Nothing is trained through a merged layer, and to unmerge it would take another ΔW from the base than was added.

    Raises:
        AdapterError: it is merged; a disabled one unmerges itself.
    """
    if layer.merged and not layer.disable_adapters:
        raise AdapterError("the adapter is merged into the base, so nothing is trained; call unmerge_adapter() first")


def tell_of_late_start(last_step: int, step: int) -> None:
    """A loop that resumes without the engine's state trains on, with importance of nothing and other ranks."""
    if last_step < 0 and step > 1:
        _log.warning(
            "the first call is for step %d: after a resume call engine.load_state_dict(), or importance and "
            "ranks begin anew; else count optimizer steps from 1",
            step,
        )
