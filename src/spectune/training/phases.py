"""First and last mean loss of each phase: what tells whether allocation hurt."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

MARGIN = 1.05  # a loss that ends this much above the warm-up's end is worth a warning


@dataclass
class PhaseLosses:
    """Mean losses of logging windows, by phase, in order of time."""

    means: dict[str, list[float]] = field(default_factory=dict)

    def add(self, phase: str, mean: float) -> None:
        """Record the mean loss of some steps of a phase; only the first and the last are kept."""
        known = self.means.setdefault(phase, [])
        known[1:] = [mean] if known else known
        if not known:
            known.append(mean)

    def summary(self) -> dict[str, dict[str, float]]:
        """{phase: {"first", "last"}}."""
        return {phase: {"first": means[0], "last": means[-1]} for phase, means in self.means.items()}

    def warning(self) -> str | None:
        """One line if the decrease ended above the warm-up."""
        phases = self.summary()
        if "warm-up" not in phases or "decrease" not in phases:
            return None
        before, after = phases["warm-up"]["last"], phases["decrease"]["last"]
        if not math.isfinite(before + after) or after <= before * MARGIN:  # steps that overflow cut no triplet
            return None
        return (
            f"the loss rose from {before:.4f} at the end of the warm-up to {after:.4f} at the end of the decrease: "
            "allocation cuts faster than training recovers; raise target_r, lower tfinal or train longer"
        )

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"means": self.means}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self.means = {phase: list(means) for phase, means in state["means"].items()}
