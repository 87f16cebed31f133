"""Compaction changes no logits and not the next update of the survivors; memory shrinks with the rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.adapter.tiny import (
    FREEZE,
    LAST,
    OPTIMIZERS,
    batch,
    entries,
    hosted,
    logits,
    reload,
    steps_of_paper,
    steps_of_peft,
)

from spectune.adapter.engine import AdaLoraEngine


def survivors(model: Any, engine: AdaLoraEngine) -> dict[str, torch.Tensor]:
    """Entries of every matrix, the dead triplets left out."""
    found = {}
    for kind, axis in (("lora_E", 0), ("lora_A", 0), ("lora_B", 1)):
        for (name, entry), kept in zip(entries(model, kind).items(), engine.saved(), strict=True):
            found[f"{name}.{kind}"] = entry.detach().index_select(axis, torch.tensor(kept).nonzero().flatten()).clone()
    return found


@pytest.mark.parametrize("over", ["engine", "model"])
@pytest.mark.parametrize("optimizer", ["adamw", "fused", "momentum"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_nothing_changes_but_memory(family: str, optimizer: str, over: str) -> None:
    runs = []
    for compacts in (False, True):
        model, engine = hosted(family, penalty="step")
        parameters = engine.parameters() if over == "engine" else model.parameters()
        steps = OPTIMIZERS[optimizer](parameters)
        steps_of_paper(model, engine, steps, range(1, FREEZE + 2))
        before = logits(model)
        if compacts:
            assert engine.compact(steps) == engine.initial_budget - engine.target_budget
            assert engine.compact(steps) == 0, "nothing is left to remove"
        torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
        steps_of_paper(model, engine, steps, [FREEZE + 2])
        once = survivors(model, engine)
        steps_of_paper(model, engine, steps, range(FREEZE + 3, LAST))
        runs.append((once, survivors(model, engine), engine, steps))
    for masked, compacted in zip(runs[0][:2], runs[1][:2], strict=True):
        assert masked.keys() == compacted.keys()
        for name, expected in masked.items():
            torch.testing.assert_close(compacted[name], expected, rtol=0, atol=1e-5, msg=name)
    engine, steps = runs[1][2:]
    assert sum(p.numel() for p in engine.parameters()) < 0.6 * sum(p.numel() for p in runs[0][2].parameters())
    for parameter in engine.parameters():
        moments = [value for value in steps.state[parameter].values() if value is not None and value.numel() > 1]
        assert moments
        assert all(moment.shape == parameter.shape for moment in moments)


def test_with_a_gradient_and_its_graph_alive() -> None:
    model, engine = hosted("t5")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, FREEZE + 1))
    loss = model(**batch(0)).loss
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in engine.parameters() if parameter.grad is not None]
    kept = [engine.keep[bank.triplets] for bank in engine.store.banks if engine.keep is not None]
    engine.compact(optimizer)
    for parameter, gradient, rows in zip(engine.parameters(), gradients, kept, strict=True):
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, gradient[rows])
    optimizer.zero_grad()
    model(**batch(0)).loss.backward()
    optimizer.step()


@pytest.mark.parametrize("whole_width", [False, True])
def test_matrices_that_lose_every_triplet(whole_width: bool, tmp_path: Any) -> None:
    """Rank 0, of some matrices or of all with one width: training, saving and plain PEFT go on."""
    model, engine = hosted("t5", spread=0.3, penalty="step", init_r=4, target_r=1)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_paper(model, engine, optimizer, range(1, FREEZE))
    assert engine.averages is not None
    for smooth, bank in zip(engine.averages.sensitivity, engine.store.banks, strict=True):
        favoured = bank.triplets >= engine.initial_budget // 2
        if whole_width:  # the feed-forward's inner width, 24, is that of two kinds of matrix
            wide = [n for n, m in enumerate(engine.store.matrices) if m.name.endswith(("wi", "wo"))]
            favoured = ~torch.isin(bank.triplets // engine.schedule.init_r, torch.tensor(wide))
        smooth[~favoured] = 0.0
    engine.reallocate(FREEZE)
    before = logits(model)
    engine.compact(optimizer)
    assert 0 in engine.ranks().values()
    assert any(len(bank.rows) == 0 for bank in engine.store.banks) == whole_width
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-5)
    losses = steps_of_paper(model, engine, optimizer, range(FREEZE + 1, FREEZE + 4), max_norm=1.0)
    assert torch.tensor(losses).isfinite().all()
    plain = reload(model, tmp_path, "t5")
    torch.testing.assert_close(logits(plain), logits(model.eval()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("importance", ["elementwise", "triplet"])
def test_permanent_pruning_compacts_during_the_decrease(importance: str) -> None:
    """The dead leave the penalty and the clip norm when they are cut, so that compaction changes neither."""
    rows = []
    for compacts in (False, True):
        model, engine = hosted("t5", pruning="permanent", importance=importance, penalty="step")
        optimizer = OPTIMIZERS["adamw"](engine.parameters())
        losses = []
        sizes = []
        for step in range(1, LAST):
            losses += steps_of_paper(model, engine, optimizer, [step], max_norm=0.3)
            if compacts and step % 4 == 2 and step > 4:
                engine.compact(optimizer)
            sizes.append(sum(parameter.numel() for parameter in engine.parameters()))
        rows.append((losses, engine.ranks(), sizes))
    (masked, ranks, full), (compacted, same_ranks, fewer) = rows
    assert compacted == pytest.approx(masked, abs=1e-5)
    assert ranks == same_ranks
    assert set(full) == {full[0]}
    assert len(set(fewer)) == 4, "three compactions in the decrease"
    assert fewer[FREEZE - 2] < 0.8 * full[0], "before the freeze"
