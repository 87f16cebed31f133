"""The averages and scores, against the formulas written out."""

from __future__ import annotations

import torch
from tests.adapter.tiny import batch, hosted

from spectune.adapter.importance import triplet_scores, update_averages


def test_two_steps_by_hand() -> None:
    weights, sensitivity, uncertainty = [torch.tensor([2.0, -1.0])], [torch.zeros(2)], [torch.zeros(2)]
    for gradient in ([1.0, 3.0], [-2.0, 0.0]):
        update_averages(weights, [torch.tensor(gradient)], sensitivity, uncertainty, beta1=0.5, beta2=0.8)
    # I: (2, 3) then (4, 0); mean: (1, 1.5) then (2.5, 0.75); |I − mean|: (1, 1.5) then (1.5, 0.75)
    torch.testing.assert_close(sensitivity[0], torch.tensor([2.5, 0.75]))
    torch.testing.assert_close(uncertainty[0], torch.tensor([0.8 * 0.2 + 0.3, 0.8 * 0.3 + 0.15]))


def test_a_skipped_step_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    averages = [torch.rand(3, 4, generator=generator)], [torch.rand(3, 4, generator=generator)]
    before = [average[0].clone() for average in averages]
    for bad in (float("nan"), float("inf")):
        gradient = [torch.full((3, 4), bad)]
        update_averages([torch.ones(3, 4)], gradient, *averages, beta1=0.85, beta2=0.85, skip=torch.tensor(True))
    assert all(torch.equal(average[0], old) for average, old in zip(averages, before, strict=True))


def test_score_of_a_triplet() -> None:
    """s(λ) + mean s(row of Q) + mean s(column of P), wherever a bank keeps the row."""
    values, queries, outputs = (
        torch.tensor([1.0, 2.0]),
        torch.tensor([[1.0, 3.0], [5.0, 7.0]]),
        torch.tensor([[4.0], [6.0]]),
    )
    ones = [torch.ones_like(t) for t in (values, queries, outputs)]
    numbers = [None, torch.tensor([1, 0]), torch.tensor([0, 1])]
    found = triplet_scores([values, queries, outputs], ones, numbers)
    torch.testing.assert_close(found, torch.tensor([1.0 + 6.0 + 4.0, 2.0 + 2.0 + 6.0]))


def test_of_whole_triplets() -> None:
    """|λ · ∂L/∂λ|, with averages of one number a triplet: what the loss changes by, to first order, without it."""
    model, engine = hosted("t5", spread=0.2, importance="triplet", penalty="step")
    smooth, spread = torch.zeros(engine.initial_budget), torch.zeros(engine.initial_budget)
    beta1, beta2 = engine.options.beta1, engine.options.beta2
    for step in (0, 1):
        model.zero_grad(set_to_none=True)
        model(**batch(step)).loss.backward()
        engine.observe()
        values = engine.store.values.rows
        assert values.grad is not None
        now = (values.detach() * values.grad).abs()
        smooth = beta1 * smooth + (1 - beta1) * now
        spread = beta2 * spread + (1 - beta2) * (now - smooth).abs()
    assert engine.averages is not None
    assert [tuple(average.shape) for average in engine.averages.sensitivity] == [(engine.initial_budget,)]
    torch.testing.assert_close(engine.scores(), smooth * spread)
    small = values.detach().abs().argsort()[:5]
    with torch.no_grad():
        for number in small.tolist():
            whole = model(**batch(1)).loss
            kept = values[number].item()
            values[number] = 0.0
            engine.store.drop_parts()
            change = abs(float(model(**batch(1)).loss - whole))
            values[number] = kept
            assert abs(change - float(now[number])) < 2e-4 + 0.2 * change
