"""One step in free functions: gradient of a window, skipping, order of calls."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from tests.training.conftest import tiny_model
from torch import nn
from torch.nn import functional as F

import spectune
from spectune.config import TrainConfig
from spectune.data.loader import Window
from spectune.evaluation.decoding import base_of
from spectune.training.checkpoint import Trained, load_checkpoint, save_checkpoint
from spectune.training.optimizer import make_optimizer
from spectune.training.step import StepOptions, training_step, window_loss

OPTIONS: dict[str, Any] = {
    "device": torch.device("cpu"),
    "autocast": contextlib.nullcontext,
    "label_smoothing": 0.0,
    "max_grad_norm": 1.0,
    "penalty_in_scores": True,
    "call_order": "paper",
}


def adapted(
    kind: str = "t5", *, orth_reg_weight: float = 0.1, importance: Any = "elementwise"
) -> tuple[PeftModel, spectune.AdaLoraEngine]:
    config = AdaLoraConfig(
        task_type="SEQ_2_SEQ_LM",
        target_modules=spectune.default_targets(tiny_model(kind, 40)),
        init_r=4,
        target_r=2,
        tinit=1,
        tfinal=2,
        deltaT=1,
        total_step=6,
        lora_alpha=8,
        orth_reg_weight=orth_reg_weight,
    )
    torch.manual_seed(1)
    model = get_peft_model(tiny_model(kind, 40, dropout=0.0), config)
    assert isinstance(model, PeftModel)
    return model, spectune.attach(model, penalty="step", importance=importance)


def rows(seed: int, lengths: list[int]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.full((len(lengths), max(lengths)), -100)
    for row, length in enumerate(lengths):
        labels[row, :length] = torch.randint(3, 40, (length,), generator=generator)
    ids = torch.randint(3, 40, (len(lengths), 7), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def embeddings(model: nn.Module) -> torch.Tensor:
    table = base_of(model).get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    return table.weight.data


def window(*batches: dict[str, torch.Tensor]) -> Window:
    tokens = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    return Window(list(batches), tokens, 1, 1, 0.0)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_micro_batches_give_the_gradient_of_the_whole(kind: str) -> None:
    whole = rows(5, [2, 6, 3, 1])
    halves = [{name: tensor[part] for name, tensor in whole.items()} for part in (slice(0, 1), slice(1, 4))]
    gradients = []
    for batches in ([whole], halves):
        model, engine = adapted(kind)
        for bank in engine.store.outputs:
            bank.rows.data.normal_(generator=torch.Generator().manual_seed(3))
        engine.store.values.rows.data.fill_(0.3)
        window_loss(model.train(), window(*batches), StepOptions(**OPTIONS))
        gradients.append([parameter.grad for parameter in engine.parameters()])
    for ours, reference in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


def test_the_loss_is_the_models_own_cross_entropy() -> None:
    model, _ = adapted()
    batch = rows(2, [4, 4])
    ours = window_loss(model.eval(), window(batch), StepOptions(**OPTIONS))
    torch.testing.assert_close(ours, model.get_base_model()(**batch).loss.detach())


def test_label_smoothing_is_torchs() -> None:
    model, _ = adapted()
    batch = rows(2, [4, 2])
    ours = window_loss(model.eval(), window(batch), StepOptions(**OPTIONS | {"label_smoothing": 0.2}))
    logits = model.get_base_model()(**batch).logits
    expected = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.2)
    torch.testing.assert_close(ours, expected.detach())


@pytest.mark.parametrize("order", ["paper", "peft"])
@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 6])
def test_a_step_that_is_not_finite_changes_nothing(at: int, order: str) -> None:
    def train(poison: bool) -> tuple[Any, Any]:
        model, engine = adapted()
        optimizer = make_optimizer(engine.parameters(), TrainConfig())
        for step in range(1, 7):
            batch = rows(step, [3, 2])
            if step == at:
                if not poison:  # the reference: the schedule's step goes by, the batch does not
                    (engine.reallocate if order == "paper" else engine._allocate)(step)
                    continue
                embeddings(model)[int(batch["input_ids"][0, 0])] *= torch.inf
            result = training_step(
                model.train(),
                engine,
                optimizer,
                window(batch),
                step=step,
                rate=1e-2,
                options=StepOptions(**OPTIONS | {"call_order": order}),
            )
            assert bool(result.skipped) == (step == at)
            if step == at:
                fresh = tiny_model("t5", 40)
                embeddings(model).copy_(embeddings(fresh))
        return engine, optimizer

    (skipped, moments), (reference, expected) = train(True), train(False)
    for ours, theirs in zip(skipped.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(moments.state[ours]["exp_avg"], expected.state[theirs]["exp_avg"])
        assert torch.equal(moments.state[ours]["step"], expected.state[theirs]["step"])
    assert skipped.ranks() == reference.ranks()
    assert sum(skipped.ranks().values()) == skipped.target_budget


def test_a_checkpoint_restores_every_tensor(tmp_path: Any) -> None:
    def make() -> tuple[PeftModel, Trained]:
        model, engine = adapted()
        return model, Trained(engine, make_optimizer(engine.parameters(), TrainConfig()))

    model, trained = make()
    for step in (1, 2, 3):
        training_step(
            model.train(),
            trained.engine,
            trained.optimizer,
            window(rows(step, [3, 2])),
            step=step,
            rate=1e-2,
            options=StepOptions(**OPTIONS),
        )
    save_checkpoint(tmp_path / "step-3", trained, {"anything": [1, "two"]}, {"base": "abc"})
    random_before = torch.get_rng_state()
    torch.manual_seed(0)
    _, other = make()
    assert load_checkpoint(tmp_path / "step-3", other) == {"anything": [1, "two"]}
    assert torch.equal(torch.get_rng_state(), random_before)
    for ours, theirs in zip(trained.engine.parameters(), other.engine.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        for key, value in trained.optimizer.state[ours].items():
            assert torch.equal(value, other.optimizer.state[theirs][key])
    assert trained.engine.averages is not None
    assert other.engine.averages is not None
    pairs = zip(trained.engine.averages.uncertainty, other.engine.averages.uncertainty, strict=True)
    assert all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize("importance", ["elementwise", "triplet"])
def test_the_penalty_counts_in_scores_or_not(importance: Any) -> None:
    """The paper's L includes it; `penalty_in_scores: false` reads the gradient of the cross entropy alone."""

    def scores(weight: float, included: bool) -> torch.Tensor:
        model, engine = adapted(importance=importance, orth_reg_weight=weight)
        engine.store.values.rows.data.fill_(0.3)
        for bank in engine.store.outputs:
            bank.rows.data.normal_(generator=torch.Generator().manual_seed(3))
        options = StepOptions(**OPTIONS | {"penalty_in_scores": included})
        optimizer = make_optimizer(engine.parameters(), TrainConfig())
        training_step(model.train(), engine, optimizer, window(rows(1, [3])), step=1, rate=0.0, options=options)
        return engine.scores()

    without = scores(0.0, True)
    assert torch.equal(scores(0.5, False), without)
    changed = not torch.allclose(scores(0.5, True), without)
    assert changed == (importance == "elementwise"), "λ itself is in no penalty"
