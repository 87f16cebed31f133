"""Live triplets equal the budget after every allocation, exactly, and every run ends at its target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.adapter.tiny import hosted

from spectune.adapter.engine import AdaLoraEngine


def fill_gradients(engine: AdaLoraEngine, value: float | None, generator: torch.Generator) -> None:
    """Gradients of every bank: random, or `value` everywhere."""
    for parameter in engine.parameters():
        parameter.grad = torch.empty_like(parameter)
        if value is None:
            parameter.grad.normal_(generator=generator)
        else:
            parameter.grad.fill_(value)


def run_schedule(engine: AdaLoraEngine, value: float | None = None) -> None:
    """Observe and allocate over the whole schedule, checking the count at each allocation."""
    schedule, generator = engine.schedule, torch.Generator().manual_seed(0)
    before = torch.ones(engine.initial_budget, dtype=torch.bool)
    with torch.no_grad():
        engine.store.values.rows.normal_(generator=generator)
    for step in range(1, schedule.total_step + 1):
        fill_gradients(engine, value, generator)
        engine.observe()
        budget = engine.reallocate(step)
        assert (budget is not None) == schedule.allocates(step)
        if budget is None:
            continue
        assert engine.keep is not None
        assert int(engine.keep.sum()) == budget == schedule.budget(step, engine.initial_budget, engine.target_budget)
        assert sum(engine.ranks().values()) == budget
        assert not engine.store.values.rows[~engine.keep].any()
        if engine.options.pruning == "permanent":
            assert not (engine.keep & ~before).any(), "a triplet once cut stays cut"
        before = engine.keep
    assert engine.frozen
    assert sum(engine.ranks().values()) == engine.target_budget


@pytest.mark.parametrize("pruning", ["revivable", "permanent"])
@pytest.mark.parametrize("importance", ["elementwise", "triplet"])
@pytest.mark.parametrize("value", [None, 0.0, 1.0, float("nan"), float("inf")])
def test_exactly_the_budget(value: float | None, importance: str, pruning: str) -> None:
    _, engine = hosted("t5", importance=importance, pruning=pruning)
    run_schedule(engine, value)


def test_ties_go_to_the_lower_triplet() -> None:
    _, engine = hosted("bart")
    run_schedule(engine, 0.0)
    assert engine.keep is not None
    assert engine.keep[: engine.target_budget].all()


def test_nothing_observed() -> None:
    _, engine = hosted("t5")
    for step in range(1, engine.schedule.total_step + 1):
        engine.reallocate(step)
    assert sum(engine.ranks().values()) == engine.target_budget


def test_no_rank_to_move() -> None:
    _, engine = hosted("t5", init_r=3, target_r=3)
    run_schedule(engine)
    assert set(engine.ranks().values()) == {3}


def test_a_call_that_jumps_over_the_freeze_still_freezes() -> None:
    _, engine = hosted("t5")
    engine.reallocate(3)
    assert engine.reallocate(engine.schedule.total_step) == engine.target_budget
    assert engine.frozen


@st.composite
def schedules(draw: st.DrawFn) -> dict[str, int]:
    total = draw(st.integers(1, 40))
    tinit = draw(st.integers(0, total - 1))
    tfinal = draw(st.integers(0, total - tinit - 1))
    target = draw(st.integers(1, 4))
    return {
        "total_step": total,
        "tinit": tinit,
        "tfinal": tfinal,
        "deltaT": draw(st.integers(1, 50)),
        "target_r": target,
        "init_r": target + draw(st.integers(0, 3)),
    }


@settings(max_examples=25, deadline=None, derandomize=True)
@given(schedules())
def test_every_valid_schedule_ends_at_its_target(schedule: dict[str, int]) -> None:
    _, engine = hosted("t5", **schedule)
    run_schedule(engine)


def test_a_skipped_step_leaves_the_averages() -> None:
    _, engine = hosted("t5", spread=0.1)
    generator = torch.Generator().manual_seed(0)
    fill_gradients(engine, None, generator)
    engine.observe()
    before = engine.scores()
    fill_gradients(engine, float("nan"), generator)
    engine.observe(skip=torch.tensor(True))
    assert torch.equal(engine.scores(), before)
    fill_gradients(engine, None, generator)
    engine.observe(skip=torch.tensor(False))
    assert not torch.equal(engine.scores(), before)


def test_scores_of_the_freeze_are_kept_by_slot() -> None:
    _, engine = hosted("t5", pruning="permanent")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        engine.store.values.rows.normal_(generator=generator)
    for step in range(1, engine.schedule.freeze_step + 1):
        fill_gradients(engine, None, generator)
        engine.observe()
        if engine.reallocate(step) is not None and step == 10:
            engine.compact()
    assert set(engine.final_scores) == set(engine.ranks())
    table = torch.stack(list(engine.final_scores.values()))
    assert table.shape == (len(engine.ranks()), engine.schedule.init_r)
    assert int(table.isnan().sum()) == engine.initial_budget - len(engine.store.values.rows)
