"""Loops that are not the one of the documentation: overflows, gradients gone too early, other forwards in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.adapter.tiny import OPTIMIZERS, base, batch, hosted, load_plain, logits, steps_of_peft
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.linear import LowRankLinear
from spectune.adapter.targets import default_targets
from spectune.errors import AdapterError, ConfigError
from spectune.training.step import before_update


def gradients(engine: AdaLoraEngine) -> list[Tensor]:
    return [torch.zeros_like(bank.rows) if bank.rows.grad is None else bank.rows.grad for bank in engine.store.banks]


@pytest.mark.parametrize("importance", ["elementwise", "triplet"])
@pytest.mark.parametrize("odd", [torch.inf, torch.nan])
def test_a_step_that_overflows_leaves_the_averages_alone(importance: Any, odd: float) -> None:
    """A GradScaler skips its optimizer then, and PEFT's call comes all the same."""
    model, engine = hosted("bart", spread=0.3, importance=importance)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, 4))
    assert engine.averages is not None
    held = [*engine.averages.sensitivity, *engine.averages.uncertainty]
    before = [tensor.clone() for tensor in held]
    model(**batch(4)).loss.backward()
    grad = engine.store.values.rows.grad
    assert grad is not None
    grad[0] = odd
    model.base_model.update_and_allocate(4)
    assert all(torch.equal(*pair) for pair in zip(before, held, strict=True))
    optimizer.zero_grad()
    steps_of_peft(model, optimizer, range(5, 20))
    assert all(torch.isfinite(scores[~torch.isnan(scores)]).all() for scores in engine.final_scores.values())
    assert len({*engine.ranks().values()}) > 2, "ranks by importance, not by the order of matrices"


def test_gradients_that_are_gone_before_the_allocator_are_an_error() -> None:
    """PEFT raises a TypeError; counted as zero they would keep the first matrices of the model."""
    model, engine = hosted("bart")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    model(**batch(1)).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    with pytest.raises(AdapterError, match=r"update_and_allocate\(1\) finds no gradient .* before optimizer.zero_grad"):
        model.base_model.update_and_allocate(1)
    steps_of_peft(model, optimizer, range(1, 16))
    model.base_model.update_and_allocate(16)  # the freeze scores nothing new


@pytest.mark.parametrize("live", [False, True])
def test_a_width_of_which_nothing_is_left(live: bool) -> None:
    """Permanent pruning may cut all triplets of a width, before the freeze."""
    model, engine = hosted("t5", spread=0.3, target_modules=["q", "v", "wi"], pruning="permanent")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, 3))
    store = engine.store
    alone = next(bank for bank in store.outputs if bank.rows.shape[1] == 24)
    keep = torch.ones(len(store.values.rows), dtype=torch.bool)
    keep[alone.triplets] = False
    store.keep_only(keep, optimizer)
    engine.averages = None
    assert len(alone.rows) == 0
    store.lay_out(torch.ones(len(store.values.rows), dtype=torch.bool) if live else None)
    loss = model(**batch(3)).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(bool(torch.isfinite(bank.rows.grad).all()) for bank in store.banks if bank.rows.grad is not None)
    assert float(gradients(engine)[0].abs().sum()) > 0


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("disabled", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_forward_without_gradient_between_forward_and_backward(reentrant: bool, disabled: bool) -> None:
    """Reference logits, as preference losses take them; a re-entrant checkpoint is computed again after that."""
    wanted: list[Tensor] = []
    found: list[Tensor] = []
    for between, into in ((False, wanted), (True, found)):
        model, engine = hosted("bart", spread=0.3)
        model.get_base_model().gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.enable_input_require_grads()
        model.train()
        loss = model(**batch(1)).loss
        if between:
            with torch.no_grad():
                if disabled:
                    with model.disable_adapter():
                        model(**batch(2))
                else:
                    model(**batch(2))
        loss.backward()
        into += gradients(engine)
    assert float(sum(grad.abs().sum() for grad in wanted)) > 0
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-8) for a, b in zip(wanted, found, strict=True))


def test_an_encoder_called_by_itself_after_a_forward_without_gradient() -> None:
    model, engine = hosted("t5", spread=0.3)
    with torch.no_grad():
        model(**batch(1))
    model.get_base_model().get_encoder()(batch(1)["input_ids"]).last_hidden_state.pow(3).sum().backward()
    assert float(gradients(engine)[0].abs().sum()) > 0


def test_banks_that_were_given_other_tensors_are_saved(tmp_path: Path) -> None:
    """`vector_to_parameters` sets `.data`: PEFT's entries looked at the former rows."""
    model, engine = hosted("t5", spread=0.3)
    vector = torch.nn.utils.parameters_to_vector(engine.parameters())
    torch.nn.utils.vector_to_parameters(vector + 0.01, engine.parameters())
    model.eval()
    model.save_pretrained(tmp_path)
    loaded = load_plain("t5", tmp_path)
    assert torch.allclose(logits(loaded, 1), logits(model, 1), atol=1e-6)


@pytest.mark.parametrize("grad", [False, True])
def test_no_rows_at_all(grad: bool) -> None:
    _, engine = hosted("t5")
    layer = engine.store.matrices[0].layer
    with torch.set_grad_enabled(grad):
        assert layer(torch.zeros(0, 5, layer.in_features)).shape == (0, 5, layer.out_features)


class ChangesMode(StoppingCriteria):
    def __init__(self, model: Any) -> None:
        self.model, self.calls = model, 0

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        self.calls += 1
        self.model.eval()
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_a_change_of_mode_inside_generate() -> None:
    model, _ = hosted("t5", spread=0.3)
    model.eval()
    ids = batch(1)["input_ids"]
    plain = model.generate(input_ids=ids, max_new_tokens=5)
    changes = ChangesMode(model)
    changed = model.generate(input_ids=ids, max_new_tokens=5, stopping_criteria=StoppingCriteriaList([changes]))
    assert changes.calls > 0
    assert torch.equal(plain, changed)


def spied(function: Any, calls: list[Any]) -> Any:
    def call(*parts: Any) -> Any:
        calls.append(parts)
        return function(*parts)

    return call


def test_hooks_on_the_base_layer_are_called_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    _, engine = hosted("t5", spread=0.3)
    layer = engine.store.matrices[0].layer
    x = torch.randn(2, 3, layer.in_features)
    calls: list[Any] = []
    fused = layer(x)
    handle = layer.base_layer.register_forward_hook(lambda *call: calls.append(call))
    assert torch.allclose(layer(x), fused, atol=1e-6)
    assert len(calls) == 1
    handle.remove()
    monkeypatch.setattr(LowRankLinear, "apply", spied(LowRankLinear.apply, calls))
    layer(x)
    assert len(calls) == 2, "without listeners the fused path, as before"


def test_a_state_holds_the_modules_that_are_trained_in_full() -> None:
    """A manual loop resumed as documented lost them."""
    model, engine = hosted("t5", modules_to_save=["final_layer_norm"])
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, 5))
    saved, expected = engine.state_dict(), logits(model, 9)
    other, fresh = hosted("t5", modules_to_save=["final_layer_norm"])
    assert not torch.equal(logits(other, 9), expected)
    fresh.load_state_dict(saved)
    assert torch.equal(logits(other, 9), expected)
    with pytest.raises(AdapterError, match="has 2 parameters of modules trained in full, here they are 0"):
        hosted("t5")[1].load_state_dict(saved)


@pytest.mark.parametrize("penalty_in_scores", [True, False])
def test_the_dead_leave_the_clip_norm_at_the_freeze(penalty_in_scores: bool) -> None:
    """Compacted or not: the same next update."""
    model, engine = hosted("bart", penalty="step")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    norms = []
    last = engine.schedule.freeze_step
    for step in range(1, last + 1):
        model(**batch(step)).loss.backward()
        before_update(engine, 0.0, max_grad_norm=None, penalty_in_scores=penalty_in_scores, call_order="paper")
        optimizer.step()
        engine.reallocate(step)
        optimizer.zero_grad()
    assert engine.frozen
    for _ in range(2):
        model(**batch(20)).loss.backward()
        before_update(engine, 0.0, max_grad_norm=1e-3, penalty_in_scores=penalty_in_scores, call_order="paper")
        norms.append(torch.nn.utils.get_total_norm([p.grad for p in engine.parameters() if p.grad is not None]))
        optimizer.zero_grad()
        engine.compact(optimizer)
    assert torch.allclose(torch.stack(norms), torch.tensor(1e-3), rtol=1e-3), "clipped by what is left, to that norm"


def test_options_that_are_none_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt penalty was no penalty, a fraction of PEFT's steps a step of its own."""
    for wrong, message in (
        ({"penalty": "setp"}, "penalty must be 'loss' or 'step', got 'setp'"),
        ({"importance": "x"}, "importance must be"),
        ({"pruning": "x"}, "pruning must be"),
        ({"budget": "400kB"}, "budget must be a number of parameters"),
        ({"tinit": 0.1}, "tinit must be a whole number of steps"),
    ):
        with pytest.raises(ConfigError, match=message):
            hosted("t5", **wrong)
    hosted("t5", init_r=2, target_r=2)
    assert "so no rank will move" in caplog.text


def test_a_save_before_the_freeze_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, engine = hosted("t5")
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    steps_of_peft(model, optimizer, range(1, 4))
    model.save_pretrained(tmp_path)
    assert "saved after step 3, before the freeze at step 16: the ranks are not final" in caplog.text
    caplog.clear()
    steps_of_peft(model, optimizer, range(4, 17))
    model.save_pretrained(tmp_path)
    assert not caplog.text


def test_default_targets_of_a_peft_model_are_those_of_its_base() -> None:
    assert default_targets(hosted("t5")[0]) == default_targets(base("t5"))
    assert set(hosted("t5")[1].ranks()) <= set(default_targets(hosted("t5")[0]))


def test_a_merged_adapter_is_not_trained() -> None:
    """Its weights would move unused, and unmerging would leave another base behind. PEFT fails there, too."""
    model, engine = hosted("bart", spread=0.3)
    optimizer = OPTIMIZERS["adamw"](engine.parameters())
    untouched = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.merge_adapter()
    with pytest.raises(AdapterError, match=r"the adapter is merged into the base, .* call unmerge_adapter\(\) first"):
        model(**batch(1))
    with torch.no_grad():
        model(**batch(1))  # asking is free
    model.unmerge_adapter()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, untouched[name])
    steps_of_peft(model, optimizer, range(1, 3))


def test_a_disabled_adapter_is_not_trained() -> None:
    """Not by the penalty either."""
    model, _ = hosted("bart", spread=0.3)
    with model.disable_adapter():
        assert not model(**batch(1)).loss.requires_grad
        with pytest.raises(AdapterError, match="finds no gradient to score by"):
            model.base_model.update_and_allocate(1)
