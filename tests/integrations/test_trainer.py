"""The Trainer with the callback is our own loop: the same ranks from the same batches, T5 and BART."""

from __future__ import annotations

import contextlib
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from tests.adapter.test_targets import CONFIGS
from tests.adapter.tiny import adapted, load_plain
from tests.integrations.trainer_world import (
    FREEZE,
    PHASES,
    ROWS,
    STEPS,
    arguments,
    collate,
    peft_model,
    train,
    trainer,
)
from transformers import AutoModelForSeq2SeqLM, T5GemmaConfig, TrainerCallback

import spectune
from spectune import AdaLoraCallback, AdaLoraEngine
from spectune.config import TrainConfig
from spectune.data.loader import Window
from spectune.errors import AdapterError, ConfigError
from spectune.training.optimizer import make_optimizer
from spectune.training.step import StepOptions, before_update, training_step

_STACK: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
}
T5GEMMA = T5GemmaConfig(encoder=_STACK, decoder=_STACK, dropout_rate=0.0)


class Ranks(TrainerCallback):
    """What is kept after each step."""

    def __init__(self) -> None:
        self.found: list[dict[str, int]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **moment: Any) -> None:
        self.found.append(moment["model"].base_model.engine.ranks())


def windows(micro_batches: int, rows: int) -> list[Window]:
    """The Trainer's batches, in its order; an epoch's last window may be smaller."""
    batches = [collate(ROWS[i : i + rows]) for i in range(0, len(ROWS), rows)]
    parts = [batches[i : i + micro_batches] for i in range(0, len(batches), micro_batches)]
    whole = [parts[step % len(parts)] for step in range(STEPS)]
    tokens = [sum(int(batch["labels"].ne(-100).sum()) for batch in part) for part in whole]
    return [
        Window(part, target_tokens=n, source_tokens=0, rows=0, epoch=0.0) for part, n in zip(whole, tokens, strict=True)
    ]


def own_loop(
    family: str, micro_batches: int, *, order: Any = "paper", smoothing: float = 0.0, in_scores: bool = True
) -> tuple[AdaLoraEngine, list[dict[str, int]], list[float]]:
    """spectune's loop on those batches: the engine, its ranks after each step, the losses."""
    model = peft_model(family, total_step=STEPS)
    engine = spectune.attach(model, penalty="step")
    options = StepOptions(
        device=torch.device("cpu"),
        autocast=contextlib.nullcontext,
        label_smoothing=smoothing,
        max_grad_norm=0.5,
        penalty_in_scores=in_scores,
        call_order=order,
    )
    optimizer = make_optimizer(engine.parameters(), TrainConfig(weight_decay=0.01))
    ranks, losses = [], []
    for step, window in enumerate(windows(micro_batches, 4), start=1):
        result = training_step(model, engine, optimizer, window, step=step, rate=2e-2, options=options)
        if step == FREEZE and order == "paper":
            engine.compact(optimizer)
        ranks.append(engine.ranks())
        losses.append(float(result.loss))
    return engine, ranks, losses


@pytest.mark.parametrize(
    ("family", "micro_batches", "order", "smoothing", "in_scores"),
    [
        ("t5", 2, "paper", 0.0, True),
        ("bart", 2, "paper", 0.0, True),
        ("t5", 3, "peft", 0.0, True),
        ("bart", 1, "paper", 0.1, False),
        ("t5", 2, "paper", 0.1, True),
    ],
)
def test_the_same_ranks_and_weights_as_our_own_loop(
    family: str, micro_batches: int, order: Any, smoothing: float, in_scores: bool, tmp_path: Path
) -> None:
    ours, ranks, losses = own_loop(family, micro_batches, order=order, smoothing=smoothing, in_scores=in_scores)
    model, seen = peft_model(family), Ranks()
    args = arguments(
        tmp_path,
        gradient_accumulation_steps=micro_batches,
        max_grad_norm=0.5,
        weight_decay=0.01,
        label_smoothing_factor=smoothing,
    )
    callback = AdaLoraCallback(call_order=order, penalty_in_scores=in_scores)
    run = trainer(model, args, callback, seen, smoothed=smoothing > 0)
    train(run)
    assert seen.found == ranks
    assert len({str(one) for one in ranks}) >= 4
    theirs = model.base_model.engine
    for name, bank in ours.store.named_banks().items():
        torch.testing.assert_close(theirs.store.named_banks()[name].rows, bank.rows, rtol=0, atol=1e-5)
    logged = [entry for entry in run.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in logged] == pytest.approx(losses, abs=1e-3)
    assert [entry["live"] for entry in logged] == [sum(one.values()) for one in ranks]
    assert all(entry["penalty"] > 0 for entry in logged)
    assert args.max_grad_norm == 0.5


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("penalty", ["loss", "step"])
def test_micro_batches_are_one_batch(family: str, penalty: Any, tmp_path: Path) -> None:
    """Also where attach() has been called and the loss carries the penalty."""

    class Gradients(TrainerCallback):
        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **moment: Any) -> None:
            self.found = [p.grad.clone() for p in moment["model"].base_model.engine.parameters()]

    found = []
    for rows, micro_batches in ((8, 1), (2, 4), (1, 8)):
        model = peft_model(family)
        spectune.attach(model, penalty=penalty)
        args = arguments(
            tmp_path,
            max_steps=1,
            per_device_train_batch_size=rows,
            gradient_accumulation_steps=micro_batches,
            max_grad_norm=0.0,
        )
        gradients = Gradients()
        train(trainer(model, args, gradients))
        found.append(gradients.found)
    for other in found[1:]:
        for one, many in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, many, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["marian", "pegasus", "mbart", "led", "t5gemma"])
def test_a_share_of_the_window_in_every_family(family: str) -> None:
    """Also in those that would divide by `num_items_in_batch` themselves (T5Gemma)."""
    torch.manual_seed(0)
    config = T5GEMMA if family == "t5gemma" else CONFIGS[family][0]
    model = adapted(AutoModelForSeq2SeqLM.from_config(config), spread=0.1).eval()
    spectune.attach(model)
    rows = [{name: [token % 50 for token in tokens] for name, tokens in one.items()} for one in ROWS[:8]]
    whole = collate(rows)
    items = whole["labels"].ne(-100).sum()
    expected = float(model(**whole).loss.detach())
    parts = [model(**collate(rows[i : i + 2]), num_items_in_batch=items).loss.detach() for i in range(0, 8, 2)]
    assert float(sum(parts)) == pytest.approx(expected, rel=1e-5)


def test_an_overflow_of_fp16_is_skipped_by_its_scaler(tmp_path: Path) -> None:
    """accelerate has no fp16 on a processor; what it sets up on a GPU is put in by hand."""
    model = peft_model("t5")
    run: Any = trainer(model, arguments(tmp_path))
    run.accelerator.state._mixed_precision, run.accelerator.native_amp = "fp16", True
    run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    try:
        train(run)
    finally:
        AcceleratorState._reset_state()
    assert run.accelerator.scaler.get_scale() < 2.0**22
    norms = [entry["grad_norm"] for entry in run.state.log_history if "grad_norm" in entry]
    assert 0 < sum(math.isfinite(norm) for norm in norms) < STEPS
    engine = model.base_model.engine
    assert sum(engine.ranks().values()) == engine.target_budget
    assert all(bool(torch.isfinite(parameter).all()) for parameter in engine.parameters())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_evaluation_is_cross_entropy_and_generates(smoothing: float, tmp_path: Path) -> None:
    model = peft_model("t5")
    args = arguments(
        tmp_path,
        max_steps=1,
        label_smoothing_factor=smoothing,
        predict_with_generate=True,
        generation_max_length=5,
        per_device_eval_batch_size=8,
    )
    run: Any = trainer(model, args, smoothed=smoothing > 0)
    metrics = run.evaluate(ROWS[:8])
    tokens = collate(ROWS[:8], model)
    with torch.no_grad():
        logits = model.eval()(**{name: t for name, t in tokens.items() if name != "labels"}).logits
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens["labels"].flatten(), label_smoothing=smoothing
    )
    assert metrics["eval_loss"] == pytest.approx(float(expected), abs=1e-5)
    assert float(model.base_model.engine.penalty().detach()) > 0.1
    generated = run.predict(ROWS[:8]).predictions
    assert generated.shape[0] == 8


def test_the_adapter_that_is_saved(tmp_path: Path) -> None:
    model = peft_model("bart")
    run = trainer(model, arguments(tmp_path))
    train(run)
    run.save_model(str(tmp_path / "adapter"))
    tokens = collate(ROWS[:4])
    with torch.no_grad():
        live = model.eval()(**tokens).logits
        plain = load_plain("bart", tmp_path / "adapter").eval()
        reloaded = plain(
            **{k: v for k, v in tokens.items() if k != "labels"}
            | {"decoder_input_ids": model.get_base_model().prepare_decoder_input_ids_from_labels(tokens["labels"])}
        ).logits
    torch.testing.assert_close(live, reloaded, rtol=0, atol=1e-5)
    config = plain.peft_config["default"]
    assert (config.total_step, config.tinit, config.tfinal, config.deltaT) == (STEPS, 2, 5, 2)
    engine = model.base_model.engine
    assert sum(engine.ranks().values()) == engine.target_budget == len(engine.store.values.rows)


@pytest.mark.parametrize(
    ("config", "asked", "expected"),
    [
        (PHASES, {}, (2, 5, 2)),
        ({"tinit": 0, "tfinal": 0, "deltaT": 1}, {}, (2, 5, 1)),  # PEFT's defaults: spectune's fractions
        ({"tinit": 3, "tfinal": 0, "deltaT": 1}, {"tfinal": 0.25}, (3, 5, 1)),
        (PHASES, {"tinit": 1, "tfinal": 1, "deltaT": 3}, (1, 1, 3)),
    ],
)
def test_the_schedule(config: Any, asked: Any, expected: tuple[int, int, int], tmp_path: Path) -> None:
    model = peft_model("t5", **config)
    train(trainer(model, arguments(tmp_path, max_steps=-1, num_train_epochs=2.5), AdaLoraCallback(**asked)))
    schedule = model.base_model.engine.schedule
    assert schedule.total_step == 20
    assert (schedule.tinit, schedule.tfinal, schedule.deltaT) == expected
    assert model.base_model.engine.frozen


def test_a_config_that_does_not_fit(tmp_path: Path) -> None:
    model = peft_model("t5", tinit=200, tfinal=500)
    with pytest.warns(UserWarning, match="tinit 200, tfinal 500 and deltaT 2 do not fit the Trainer's 14 steps"):
        train(trainer(model, arguments(tmp_path)))
    assert model.base_model.engine.schedule.freeze_step == 10
    model = peft_model("t5", tinit=0, tfinal=0, deltaT=1)
    model.peft_config["default"].total_step = None
    train(trainer(model, arguments(tmp_path)))
    assert model.peft_config["default"].total_step == STEPS
    with pytest.raises(ConfigError, match="would never reach its target"):
        train(trainer(peft_model("t5"), arguments(tmp_path), AdaLoraCallback(tinit=10, tfinal=10)))


def test_without_the_callback_a_warning_says_that_nothing_adapts(tmp_path: Path) -> None:
    model = peft_model("t5")
    engine = spectune.attach(model)
    with pytest.warns(UserWarning, match=r"10 steps without update_and_allocate\(\): .*AdaLoraCallback"):
        train(trainer(model, arguments(tmp_path), Ranks()))
    assert engine.allocator_calls == 0
    model = peft_model("t5")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*steps without.*")
        train(trainer(model, arguments(tmp_path, gradient_accumulation_steps=1, max_steps=30)))


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adamw_torch"])
def test_a_step_that_is_not_finite_changes_nothing(optim: str, tmp_path: Path) -> None:
    class Poison(TrainerCallback):
        """Before AdaLoraCallback, as if backward had made it."""

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **moment: Any) -> None:
            self.engine = moment["model"].base_model.engine
            self.poisoned = state.global_step == 5
            if self.poisoned:
                self.before = [p.detach().clone() for p in self.engine.parameters()]
                self.averages = [a.clone() for a in self.engine.averages.sensitivity]
                self.engine.store.queries[0].rows.grad[0, 0] = float("nan")

        def on_step_end(self, args: Any, state: Any, control: Any, **moment: Any) -> None:
            if self.poisoned:
                kept = zip(self.before[1:], self.engine.parameters()[1:], strict=True)
                assert all(torch.equal(a, b) for a, b in kept)
                old = zip(self.averages, self.engine.averages.sensitivity, strict=True)
                assert all(torch.equal(a, b) for a, b in old)
                self.checked = True

    model, poison = peft_model("t5"), Poison()
    train(trainer(model, arguments(tmp_path, optim=optim), poison, AdaLoraCallback()))
    assert poison.checked
    engine = model.base_model.engine
    assert sum(engine.ranks().values()) == engine.target_budget
    assert all(bool(torch.isfinite(p).all()) for p in engine.parameters())


def test_an_optimizer_that_cannot_be_compacted(tmp_path: Path) -> None:
    model = peft_model("t5")
    train(trainer(model, arguments(tmp_path, optim="adafactor")))
    engine = model.base_model.engine
    assert sum(engine.ranks().values()) == engine.target_budget
    assert len(engine.store.values.rows) == engine.initial_triplets


@pytest.mark.parametrize("penalty_in_scores", [True, False])
def test_whether_the_dead_stay_in_memory_changes_no_update(penalty_in_scores: bool, tmp_path: Path) -> None:
    """The norm that is clipped by is theirs no more in either case."""
    survivors = []
    for compact in (True, False):
        model = peft_model("t5")
        callback = AdaLoraCallback(compact=compact, penalty_in_scores=penalty_in_scores)
        train(trainer(model, arguments(tmp_path, max_grad_norm=0.2), callback))
        engine = model.base_model.engine
        engine.compact()
        survivors.append([parameter.detach().clone() for parameter in engine.parameters()])
    for one, other in zip(*survivors, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-5)


def test_a_run_broken_off_inside_a_step_leaves_the_clipping_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell of a notebook, interrupted and run again over the same arguments."""

    class Stopped(TrainerCallback):
        def on_substep_end(self, *arguments: Any, **moment: Any) -> None:
            raise KeyboardInterrupt

    args = arguments(tmp_path, max_grad_norm=0.5)
    with pytest.raises(KeyboardInterrupt):
        train(trainer(peft_model("t5"), args, AdaLoraCallback(), Stopped()))
    seen: list[float] = []

    def spy(*parts: Any, **options: Any) -> Any:
        seen.append(options["max_grad_norm"])
        return before_update(*parts, **options)

    monkeypatch.setattr("spectune.integrations.trainer_callback.before_update", spy)
    train(trainer(peft_model("t5"), args))
    assert seen == [0.5] * STEPS
    assert args.max_grad_norm == 0.5


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    model = peft_model("t5")
    with pytest.raises(AdapterError, match="optimizer made before the engine was attached"):
        trainer(model, args, optimizers=(torch.optim.AdamW(model.parameters()), None))
    with pytest.raises(AdapterError, match="needs a PeftModel with an AdaLoRA adapter"):
        trainer(model.get_base_model(), args)
    with pytest.raises(ConfigError, match="penalty_in_scores=False needs call_order"):
        AdaLoraCallback(call_order="peft", penalty_in_scores=False)
    late = trainer(peft_model("t5"), args, Ranks())
    late.add_callback(AdaLoraCallback())
    with pytest.raises(AdapterError, match="give the callback to the Trainer's constructor"):
        train(late)
    attached = peft_model("t5")
    spectune.attach(attached)
    with pytest.raises(AdapterError, match="give pruning to that"):
        trainer(attached, args, AdaLoraCallback(pruning="permanent"))
    run = trainer(attached, args)
    train(run)
    with pytest.raises(AdapterError, match="was trained for 14 steps already"):
        train(run)


def test_one_process_for_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(tmp_path)
    monkeypatch.setattr(type(args), "world_size", 2)
    with pytest.raises(ConfigError, match="one process on one device"):
        trainer(peft_model("t5"), args)
