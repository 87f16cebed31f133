"""The budget schedule: written values, and PEFT's own as an oracle."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from peft.tuners.adalora.layer import RankAllocator

from spectune.adapter.schedule import RankSchedule, resolve_schedule
from spectune.errors import ConfigError


def schedule(**changes: int) -> RankSchedule:
    plain = {"total_step": 20, "tinit": 4, "tfinal": 6, "deltaT": 2, "init_r": 12, "target_r": 8}
    return RankSchedule(**{**plain, **changes})


@pytest.mark.parametrize(
    ("step", "budget", "allocates", "phase"),
    [
        (1, 120, False, "warm-up"),
        (4, 120, False, "warm-up"),
        (5, 109, False, "decrease"),  # 80 + 40 · 0.9³ = 109.16
        (6, 100, True, "decrease"),
        (9, 85, False, "decrease"),
        (10, 82, True, "decrease"),
        (13, 80, False, "decrease"),
        (14, 80, True, "decrease"),
        (15, 80, False, "frozen"),
        (99, 80, False, "frozen"),
    ],
)
def test_written_values(step: int, budget: int, allocates: bool, phase: str) -> None:
    found = schedule()
    assert found.freeze_step == 14
    assert found.budget(step, 120, 80) == budget
    assert found.allocates(step) == allocates
    assert found.phase(step) == phase


def test_phases() -> None:
    assert schedule().phases() == {"warm-up": (1, 4), "decrease": (5, 14), "frozen": (15, 20)}
    assert schedule(tinit=0, tfinal=0).phases() == {"decrease": (1, 20)}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    total=st.integers(1, 60),
    tinit=st.integers(0, 59),
    tfinal=st.integers(0, 59),
    interval=st.integers(1, 9),
    target=st.integers(1, 8),
    extra=st.integers(0, 8),
    matrices=st.integers(1, 30),
)
def test_as_peft(total: int, tinit: int, tfinal: int, interval: int, target: int, extra: int, matrices: int) -> None:
    assume(tinit < total - tfinal)
    ours = RankSchedule(
        total_step=total, tinit=tinit, tfinal=tfinal, deltaT=interval, init_r=target + extra, target_r=target
    )
    initial, final = (target + extra) * matrices, target * matrices
    allocator: Any = SimpleNamespace(peft_config=ours, init_bgt=initial, target_bgt=final)
    for step in range(total + 3):
        budget, masks = RankAllocator.budget_schedule(allocator, step)
        assert ours.budget(step, initial, final) == budget
        if step < ours.freeze_step:
            assert ours.allocates(step) == masks
    assert ours.budget(ours.freeze_step, initial, final) == final
    assert ours.allocates(ours.freeze_step)
    phases = ours.phases()
    assert sum(last - first + 1 for first, last in phases.values()) == total


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tinit": 14}, "leave no step of the 20 for the decrease; lower tinit or tfinal, or train longer"),
        ({"tfinal": 16}, "lower tinit or tfinal"),
        ({"target_r": 13}, "target_r 13 is above init_r 12; raise init_r"),
        ({"target_r": 0}, "target_r must be at least 1, got 0"),
        ({"deltaT": 0}, "deltaT must be at least 1"),
        ({"total_step": 0}, "total_step must be at least 1"),
        ({"tinit": -1}, "tinit must not be negative, got -1"),
    ],
)
def test_impossible_schedules(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        schedule(**changes)


@pytest.mark.parametrize(
    ("tinit", "tfinal", "interval", "expected"),
    [
        (0.1, 0.5, "auto", (100, 500, 2)),
        (0.1, 300, 7, (100, 300, 7)),
        (0, 0.25, "auto", (0, 250, 4)),
        (10, 900, "auto", (10, 900, 1)),
    ],
)
def test_fractions_and_auto(tinit: Any, tfinal: Any, interval: Any, expected: tuple[int, ...]) -> None:
    found = resolve_schedule(total_step=1000, tinit=tinit, tfinal=tfinal, deltaT=interval, init_r=12, target_r=8)
    assert (found.tinit, found.tfinal, found.deltaT) == expected


@pytest.mark.parametrize("value", [0.0, 1.0, 1.5, -0.1, True])
def test_neither_a_fraction_nor_steps(value: Any) -> None:
    with pytest.raises(ConfigError, match="neither a fraction strictly between 0 and 1 nor a whole number"):
        resolve_schedule(total_step=1000, tinit=value, tfinal=0.5, deltaT=1, init_r=12, target_r=8)
