"""The learning rate is laid out with the phases of the budget."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from spectune.adapter.schedule import RankSchedule
from spectune.errors import ConfigError
from spectune.training.learning_rate import FLOOR_BEFORE_FREEZE, resolve_learning_rate

Kind = Literal["linear", "cosine", "constant"]
KINDS = st.sampled_from(["linear", "cosine", "constant"])


def phases(total: int, tinit: int, tfinal: int) -> RankSchedule:
    return RankSchedule(total_step=total, tinit=tinit, tfinal=tfinal, deltaT=1, init_r=2, target_r=1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(total=st.integers(1, 200), tinit=st.integers(0, 199), tfinal=st.integers(0, 199), kind=KINDS)
def test_laid_out_with_the_phases(total: int, tinit: int, tfinal: int, kind: Kind) -> None:
    assume(tinit < total - tfinal)
    schedule = phases(total, tinit, tfinal)
    rate = resolve_learning_rate(peak=2.0, kind=kind, warmup_ratio=None, schedule=schedule)
    values = [rate.at(step) for step in range(1, total + 1)]
    assert rate.warmup_steps <= tinit
    assert all(0 < value <= 2.0 + 1e-12 for value in values), "never 0 within the run"
    after_warm_up = values[rate.warmup_steps :]
    assert after_warm_up == sorted(after_warm_up, reverse=True), "falls only"
    assert values[: rate.warmup_steps] == sorted(values[: rate.warmup_steps])
    before_freeze = values[rate.warmup_steps : schedule.freeze_step]
    assert min(before_freeze) >= 2.0 * FLOOR_BEFORE_FREEZE - 1e-12


@pytest.mark.parametrize(
    ("kind", "step", "value"),
    [("linear", 5, 0.5), ("linear", 10, 1.0), ("constant", 100, 1.0), ("linear", 55, 1 - 45 / 91), ("cosine", 10, 1.0)],
)
def test_written_values(kind: Kind, step: int, value: float) -> None:
    rate = resolve_learning_rate(peak=1.0, kind=kind, warmup_ratio=None, schedule=phases(100, 20, 50))
    assert rate.at(step) == pytest.approx(value)


def test_a_warm_up_that_outlasts_tinit() -> None:
    with pytest.raises(ConfigError, match=r"warmup_ratio 0.5 is 50 steps and ends after tinit \(20\)"):
        resolve_learning_rate(peak=1.0, kind="linear", warmup_ratio=0.5, schedule=phases(100, 20, 50))
