"""What `attach` can be asked for beside the schedule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spectune.errors import ConfigError

_CHOICES = {
    "penalty": ("loss", "step"),
    "importance": ("elementwise", "triplet"),
    "pruning": ("revivable", "permanent"),
}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """PEFT's smoothing and penalty weight, and the choices of `attach`."""

    beta1: float
    beta2: float
    orth_reg_weight: float
    penalty: Literal["loss", "step"] = "loss"
    importance: Literal["elementwise", "triplet"] = "elementwise"
    pruning: Literal["revivable", "permanent"] = "revivable"
    budget: int | None = None
    """Parameters that the triplets may have after the freeze; None: target_r triplets a matrix."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be {' or '.join(map(repr, known))}, got {getattr(self, name)!r}")
        if self.budget is not None and (isinstance(self.budget, bool) or not isinstance(self.budget, int)):
            raise ConfigError(f"budget must be a number of parameters, got {self.budget!r}")
