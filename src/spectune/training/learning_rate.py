"""The learning rate as a pure function of the optimizer step, laid out with the phases of the budget. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from spectune.adapter.schedule import RankSchedule
from spectune.errors import ConfigError

FLOOR_BEFORE_FREEZE = 0.1  # survivors are chosen by gradients that still move weights


@dataclass(frozen=True, kw_only=True)
class LearningRate:
    """`peak` · shape(step): a linear rise over `warmup_steps`, then constant, linear or cosine decay.

    The decay does not fall below a tenth of the peak before `freeze_step`: where the plain shape would, it is laid out
    in two parts, from 1 to 0.1 until the freeze and from 0.1 to 0 after it.
    """

    peak: float
    kind: Literal["linear", "cosine", "constant"]
    warmup_steps: int
    freeze_step: int
    total_step: int

    def at(self, step: int) -> float:
        """Learning rate of optimizer step `step`, counted from 1; never 0 within the run."""
        return self.peak * self._shape(step)

    def _shape(self, step: int) -> float:
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        if self.kind == "constant":
            return 1.0
        if self._decay(self.freeze_step, self.warmup_steps, self.total_step) >= FLOOR_BEFORE_FREEZE:
            return self._decay(step, self.warmup_steps, self.total_step)
        if step <= self.freeze_step:
            fall = self._decay(step, self.warmup_steps, self.freeze_step)
            return FLOOR_BEFORE_FREEZE + (1 - FLOOR_BEFORE_FREEZE) * fall
        return FLOOR_BEFORE_FREEZE * self._decay(step, self.freeze_step, self.total_step)

    def _decay(self, step: int, start: int, end: int) -> float:
        """From 1 just after `start` to just above 0 at `end`."""
        share = min(max((step - start) / (end - start + 1), 0.0), 1.0)
        return 1.0 - share if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * share))


def resolve_learning_rate(
    *, peak: float, kind: Literal["linear", "cosine", "constant"], warmup_ratio: float | None, schedule: RankSchedule
) -> LearningRate:
    """Lay the learning rate out with the budget's phases.

    `warmup_ratio` is a share of the run, by default half of tinit.

    Raises:
        ConfigError: a warm-up that would outlast tinit.
    """
    warmup = schedule.tinit // 2 if warmup_ratio is None else round(warmup_ratio * schedule.total_step)
    if warmup > schedule.tinit:
        raise ConfigError(
            f"warmup_ratio {warmup_ratio} is {warmup} steps and ends after tinit ({schedule.tinit}); "
            f"lower it to {schedule.tinit / schedule.total_step:.3g} or raise adapter.tinit"
        )
    return LearningRate(
        peak=peak,
        kind=kind,
        warmup_steps=warmup,
        freeze_step=schedule.freeze_step,
        total_step=schedule.total_step,
    )
