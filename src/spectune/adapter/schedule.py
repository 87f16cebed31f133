"""The budget as a pure function of the optimizer step: warm-up, cubic decrease, frozen.

Source: Zhang et al. 2023 (arXiv 2303.10512), section 3.3 and algorithm 1; PEFT's `RankAllocator.budget_schedule`
(0.21), which this reproduces step for step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spectune.errors import ConfigError

Phase = Literal["warm-up", "decrease", "frozen"]
ALLOCATIONS_PER_SPAN = 200  # the paper's runs make 64 to 1500 allocations, the median is about 240


@dataclass(frozen=True, kw_only=True)
class RankSchedule:
    """Resolved schedule in optimizer steps, which are counted from 1.

    `tfinal` is, as in PEFT, the length of the frozen phase; the survivors are fixed at `freeze_step`.
    """

    total_step: int
    tinit: int
    tfinal: int
    deltaT: int  # noqa: N815 - PEFT's option name
    init_r: int
    target_r: int

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number of steps or triplets here, got {value!r}")
        for name in ("total_step", "deltaT", "init_r", "target_r"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("tinit", "tfinal"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.target_r > self.init_r:
            raise ConfigError(f"target_r {self.target_r} is above init_r {self.init_r}; raise init_r to at least that")
        if self.tinit >= self.freeze_step:
            raise ConfigError(
                f"the budget would never reach its target: tinit {self.tinit} + tfinal {self.tfinal} leave no step of "
                f"the {self.total_step} for the decrease; lower tinit or tfinal, or train longer"
            )

    @property
    def freeze_step(self) -> int:
        """The step whose allocation is the last one."""
        return self.total_step - self.tfinal

    def budget(self, step: int, initial: int, target: int) -> int:
        """Triplets that survive an allocation at `step`, of `initial`; `target` from `freeze_step` on.

        b(t) = b(T) + (b(0) − b(T)) (1 − (t − tinit) / (freeze_step − tinit))³, rounded down (PEFT).
        """
        if step <= self.tinit:
            return initial
        if step >= self.freeze_step:
            return target
        remaining = 1 - (step - self.tinit) / (self.freeze_step - self.tinit)
        return int((initial - target) * remaining**3 + target)

    def allocates(self, step: int) -> bool:
        """Whether triplets are chosen at `step`: every `deltaT`-th step of the decrease, and the freeze."""
        return step == self.freeze_step or (self.tinit < step < self.freeze_step and step % self.deltaT == 0)

    @property
    def allocations(self) -> int:
        """How many steps choose triplets."""
        return 1 + (self.freeze_step - 1) // self.deltaT - self.tinit // self.deltaT

    def phase(self, step: int) -> Phase:
        """The phase in which optimizer step `step` is taken."""
        if step <= self.tinit:
            return "warm-up"
        return "decrease" if step <= self.freeze_step else "frozen"

    def phases(self) -> dict[Phase, tuple[int, int]]:
        """First and last step of every phase that has steps."""
        bounds: dict[Phase, tuple[int, int]] = {
            "warm-up": (1, self.tinit),
            "decrease": (self.tinit + 1, self.freeze_step),
            "frozen": (self.freeze_step + 1, self.total_step),
        }
        return {phase: (first, last) for phase, (first, last) in bounds.items() if first <= last}


def resolve_schedule(
    *,
    total_step: int,
    tinit: int | float,
    tfinal: int | float,
    deltaT: int | Literal["auto"],  # noqa: N803 - PEFT's option name
    init_r: int,
    target_r: int,
) -> RankSchedule:
    """Turn fractions and `auto` into steps.

    A float strictly between 0 and 1 is a fraction of `total_step`, an integer is steps; a `deltaT` of `auto` makes
    about 200 allocations in the decreasing span.

    Raises:
        ConfigError: a schedule that never reaches its target, or values out of range; says which number to change.
    """
    warm_up = _in_steps("tinit", tinit, total_step)
    frozen = _in_steps("tfinal", tfinal, total_step)
    span = total_step - frozen - warm_up
    interval = max(1, round(span / ALLOCATIONS_PER_SPAN)) if deltaT == "auto" else deltaT
    return RankSchedule(
        total_step=total_step, tinit=warm_up, tfinal=frozen, deltaT=interval, init_r=init_r, target_r=target_r
    )


def check_budget(budget: int, *, initial: int, dearest: int, init_r: int) -> None:
    """Refuse a budget in parameters that holds nothing, or all there is to start with.

    Args:
        budget: parameters that the triplets may have after the freeze.
        initial: parameters of all triplets at the start.
        dearest: parameters of the largest triplet, which may be the one that scores best.
        init_r: rank of every matrix at the start.

    Raises:
        ConfigError: it says what to change.
    """
    if budget < dearest:
        raise ConfigError(
            f"the budget leaves {max(budget, 0):,} parameters for the triplets, and the largest has {dearest:,}; "
            "raise it, or adapt fewer matrices (target_modules)"
        )
    if budget >= initial:
        raise ConfigError(
            f"the budget has room for {budget:,} parameters, and init_r {init_r} gives {initial:,} to start with: no "
            "rank would move; raise init_r or lower the budget"
        )


def _in_steps(name: str, value: int | float, total_step: int) -> int:
    numbers = isinstance(value, int | float) and not isinstance(value, bool)
    if not numbers or (isinstance(value, float) and not 0.0 < value < 1.0):
        raise ConfigError(
            f"{name} {value!r} is neither a fraction strictly between 0 and 1 nor a whole number of steps"
        )
    return round(value * total_step) if isinstance(value, float) else value
