"""`adapter.budget`: parameters or bytes of the saved adapter, spent where a parameter is worth most."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tests.adapter.tiny import hosted
from tests.contracts.test_budget import fill_gradients

from spectune.adapter.allocation import affordable, survivors
from spectune.adapter.engine import AdaLoraEngine
from spectune.budget import Budget, header_bytes, parse_budget
from spectune.errors import ConfigError


def costs_of(engine: AdaLoraEngine) -> list[int]:
    """The parameters of every triplet in memory, from the shapes of PEFT's entries."""
    name = engine.store.adapter_name
    return [
        1 + matrix.layer.lora_A[name].shape[1] + matrix.layer.lora_B[name].shape[0]
        for matrix in engine.store.matrices
        for _ in matrix.slots
    ]


def test_the_best_by_score_per_parameter_until_the_money_is_spent() -> None:
    scores, costs = torch.tensor([6.0, 5.0, 4.0, 3.0]), torch.tensor([6, 1, 2, 1])  # densities 1, 5, 2, 3
    assert affordable(scores, costs, 4).tolist() == [False, True, True, True]
    assert affordable(scores, costs, 9).tolist() == [False, True, True, True]
    assert affordable(scores, costs, 10).all()
    assert not affordable(scores, costs, 0).any()


def test_ties_nan_and_candidates_are_ranked_as_by_count() -> None:
    scores = torch.tensor([1.0, float("nan"), 1.0, 1.0])
    ones = torch.ones(4, dtype=torch.int64)
    for budget in range(5):
        assert torch.equal(affordable(scores, ones, budget), survivors(scores, budget))
    candidates = torch.tensor([False, True, True, False])
    assert affordable(scores, ones, 4, candidates).tolist() == candidates.tolist(), "the others are not revived"


@pytest.mark.parametrize("pruning", ["revivable", "permanent"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_never_above_the_budget_and_as_close_as_a_triplet_allows(family: str, pruning: str) -> None:
    _, engine = hosted(family, budget=1500, pruning=pruning)
    costs, generator = torch.tensor(costs_of(engine)), torch.Generator().manual_seed(0)
    assert engine.initial_budget == int(costs.sum()) > 1500
    assert len(costs.unique()) > 1, "attention and feed-forward triplets cost differently"
    before = torch.ones_like(costs, dtype=torch.bool)
    for step in range(1, engine.schedule.total_step + 1):
        fill_gradients(engine, None, generator)
        engine.observe()
        budget = engine.reallocate(step)
        if budget is None:
            continue
        assert engine.keep is not None
        spent = int(costs[engine.keep].sum())
        assert spent == engine.spending.of(engine.keep)
        assert budget - int(costs.max()) < spent <= budget
        assert budget == engine.schedule.budget(step, engine.initial_budget, 1500)
        if pruning == "permanent":
            assert not (engine.keep & ~before).any()
        before = engine.keep
    assert engine.frozen
    assert engine.compact() > 0
    assert engine.spending.in_memory() == engine.spending.of(engine.keep) == sum(costs_of(engine)) <= 1500


def test_equal_scores_leave_the_dear_triplets_first() -> None:
    _, engine = hosted("t5", budget=1500)
    costs = torch.tensor(costs_of(engine))
    for step in range(1, engine.schedule.total_step + 1):
        fill_gradients(engine, 1.0, torch.Generator())
        for parameter in engine.parameters():
            parameter.data.fill_(1.0)
        engine.observe()
        engine.reallocate(step)
    assert engine.keep is not None
    assert costs[engine.keep].max() <= costs[~engine.keep].min()


@pytest.mark.parametrize("budget", [0, 10, 40, 10**6])  # a triplet has 33 or 41
def test_a_budget_that_holds_nothing_or_everything_is_refused(budget: int) -> None:
    with pytest.raises(ConfigError, match=r"raise it, or adapt fewer|raise init_r or lower the budget"):
        hosted("t5", budget=budget)


@pytest.mark.parametrize(
    ("written", "budget"),
    [
        ("400kB", Budget(400_000, "bytes")),
        ("1.5MB", Budget(1_500_000, "bytes")),
        ("2 MiB", Budget(2 * 1024**2, "bytes")),
        ("120000", Budget(120_000, "parameters")),
        (120_000, Budget(120_000, "parameters")),
    ],
)
def test_sizes_as_people_write_them(written: str | int, budget: Budget) -> None:
    assert parse_budget(written) == budget


@pytest.mark.parametrize("written", ["", "kB", "-3kB", "4 parsecs", "1.5", "1e6", "400 kb"])
def test_what_is_no_size(written: str) -> None:
    with pytest.raises(ValueError, match="neither a size such as 400kB"):
        parse_budget(written)


def test_more_bytes_hold_more_and_the_header_is_counted() -> None:
    entries = {"a.lora_A": (4, 8), "a.lora_B": (8, 4), "a.lora_E": (4, 1)}
    rooms = [Budget(size, "bytes").room(entries, [10]) for size in range(1000, 1100)]
    assert all(later - earlier in (0, 1) for earlier, later in pairwise(rooms))
    assert rooms[0] < (1000 - header_bytes(entries)) // 4
    assert Budget(100, "parameters").room(entries, [10, 20]) == 70
