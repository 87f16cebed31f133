"""AdaLoRA under transformers' Trainer: one callback, and nothing else to write.

The Trainer names its moments; each method below is one of them, in the order of a run. The arithmetic of a step is
that of spectune's own loop (`training.step`), so both give the same ranks from the same batches.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.peft_classes import HostedTuner
from spectune.adapter.peft_host import attach
from spectune.errors import AdapterError, ConfigError
from spectune.integrations.trainer_checkpoint import add_engine, check_resumed, take_up_engine
from spectune.integrations.trainer_clipping import give_clipping_back, hold_clipping
from spectune.integrations.trainer_optimizer import begin_again, hold_back, release, remove_dead
from spectune.integrations.trainer_schedule import (
    Phases,
    make_attachable,
    phases_of,
    remark_on_length,
    remember_phases,
    schedule_of_run,
    words,
    write_schedule,
)
from spectune.training.step import after_update, before_update

_log = logging.getLogger("spectune")


class AdaLoraCallback(TrainerCallback):
    """Makes `Seq2SeqTrainer` (or `Trainer`) and a PEFT AdaLoRA model right. Final.

    Give it to the Trainer's constructor, `Seq2SeqTrainer(…, callbacks=[AdaLoraCallback()])`; it attaches the engine
    before the Trainer makes its optimizer.

    - The schedule gets the Trainer's number of steps. Its phases are those named here, else those of the AdaLoRA
      config, else spectune's defaults; a tinit or tfinal of 0 in the config, PEFT's default, counts as not given.
    - Penalty, importance, clipping and allocation are those of spectune's own loop, once for each optimizer step. The
      penalty is in no loss that the Trainer reports, and label smoothing does not lose it; it is logged beside the
      loss. `grad_norm` is that of the cross entropy, before clipping.
    - A step whose gradients are not finite changes no weight, moment or average.
    - Micro-batches are weighted by their target tokens: k of n rows give the gradient of one of k · n rows.
    - Each checkpoint gets a directory `spectune` with the full-size state; a resumed run is bit for bit the run that
      was not stopped.
    - Only evaluations after the freeze count for the best model and early stopping: earlier ones are over budget.

    Args:
        tinit: steps, or a fraction of the run, until the budget falls.
        tfinal: steps, or a fraction of the run, with fixed ranks at its end.
        deltaT: steps between two allocations, or `auto`.
        importance: as in `attach`; this and the next two only where the callback attaches the engine itself.
        pruning: as in `attach`.
        budget: as in `attach`.
        call_order: importance from the weights that made the gradient (`paper`), or after the update as PEFT's users
            have it (`peft`).
        penalty_in_scores: whether importance is read from gradients with the penalty in them.
        compact: whether the triplets that are dead at the freeze leave memory and the optimizer.
    """

    def __init__(
        self,
        *,
        tinit: int | float | None = None,
        tfinal: int | float | None = None,
        deltaT: int | Literal["auto"] | None = None,  # noqa: N803 - PEFT's option name
        importance: Literal["elementwise", "triplet"] | None = None,
        pruning: Literal["revivable", "permanent"] | None = None,
        budget: int | None = None,
        call_order: Literal["paper", "peft"] = "paper",
        penalty_in_scores: bool = True,
        compact: bool = True,
    ) -> None:
        self._asked = Phases(tinit, tfinal, deltaT)
        if call_order not in ("paper", "peft"):
            raise ConfigError(f"call_order {call_order!r} is neither 'paper' nor 'peft'")
        wishes = {"importance": importance, "pruning": pruning, "budget": budget}
        self._wishes: dict[str, Any] = {name: value for name, value in wishes.items() if value is not None}
        if call_order == "peft" and not penalty_in_scores:
            raise ConfigError(
                'penalty_in_scores=False needs call_order="paper": PEFT\'s order reads what made the update'
            )
        self._order: Literal["paper", "peft"] = call_order
        self._penalty_in_scores, self._compact = penalty_in_scores, compact
        self._of_run: TrainerState | None = None
        self._start: dict[str, Any] | None = None
        self._restored: Path | None = None
        self._skip: Tensor | None = None
        self._penalties: list[Tensor] = []

    # ---- before the run

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any) -> None:
        """Attach, before the Trainer makes its optimizer.

        Raises:
            ConfigError: several processes or devices.
            AdapterError: no AdaLoRA model, or one that an optimizer was made for already.
        """
        _refuse_company(args)
        give_clipping_back(args)
        model = moment["model"]
        if _attached(model) is None:
            if moment["optimizer"] is not None:
                raise AdapterError(
                    "the Trainer was given an optimizer made before the engine was attached, which would train "
                    "nothing; call spectune.attach(model) before making it, or leave the optimizer to the Trainer"
                )
            config = _trainable_config(model)
            if config is not None:  # else attach says what is wrong
                given = phases_of(config, model.base_model)
                make_attachable(config)
                remember_phases(config, model.base_model, given)
            attach(model, penalty="step", **self._wishes)
        elif self._wishes:
            raise AdapterError(
                f"spectune.attach() has been called already; give {', '.join(self._wishes)} to that, not to the "
                "callback"
            )
        self._take_over(model)

    def _take_over(self, model: Any) -> AdaLoraEngine:
        """From here on the callback adds the penalty, and it is what loads a checkpoint."""
        engine = _attached(model)
        if engine is None:
            raise AdapterError(
                "AdaLoraCallback found no engine, and the optimizer has been made; give the callback to the Trainer's "
                "constructor, and with model_init call spectune.attach(model) in there"
            )
        engine.options = replace(engine.options, penalty="step")
        model.base_model.restore = self._restore
        return engine

    def _restore(self, engine: AdaLoraEngine, directory: Path) -> None:
        """In place of PEFT's load: the Trainer resumes, or takes up its best checkpoint."""
        self._restored = take_up_engine(directory, engine)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any
    ) -> None:
        """Fill in the schedule, or check that a resumed run has the one that it began with.

        Raises:
            ConfigError: phases that leave no step for the decrease, several processes, a search of hyperparameters.
            RunError: a checkpoint that is not whole, or of another run.
            AdapterError: a model that is not attached, or trained already.
        """
        _refuse_company(args)
        if state.is_hyper_param_search:
            raise ConfigError("AdaLoraCallback does not go with hyperparameter_search(); train once for each setting")
        model = moment["model"]
        self._refuse_company_of(state, model)
        engine = self._take_over(model)
        give_clipping_back(args)
        self._penalties.clear()
        config = model.peft_config[model.base_model.hosted_adapter]
        given = phases_of(config, model.base_model)
        ranks = {"init_r": engine.schedule.init_r, "target_r": engine.schedule.target_r}
        schedule, warning = schedule_of_run(state.max_steps, asked=self._asked, given=given, **ranks)
        if warning is not None:
            warnings.warn(warning, stacklevel=2)
        elif (remark := remark_on_length(schedule, given)) is not None:
            _log.warning("AdaLoRA: %s", remark)
        if state.global_step:
            check_resumed(engine, schedule, state.global_step, self._restored)
        else:
            self._begin(engine, moment["optimizer"])
            engine.reschedule(schedule)
            self._start = engine.state_dict() if args.auto_find_batch_size else None
        write_schedule(config, schedule)
        remember_phases(config, model.base_model, given)
        _log.info("AdaLoRA over %s steps: %s", f"{schedule.total_step:,}", words(schedule))

    def _refuse_company_of(self, state: TrainerState, model: Any) -> None:
        """One of these for one Trainer; a second would take every step twice."""
        owner = getattr(getattr(model.base_model, "restore", None), "__self__", None)
        if isinstance(owner, AdaLoraCallback) and owner._of_run is state:
            raise AdapterError("the Trainer has two AdaLoraCallbacks; give it one")
        self._of_run = state

    def _begin(self, engine: AdaLoraEngine, optimizer: Any) -> None:
        """From the first step: `auto_find_batch_size` begins again, with smaller batches, where memory ran out."""
        if engine.last_step >= 0 and self._start is not None and begin_again(engine, optimizer, self._start):
            return
        if engine.last_step >= 0:
            raise AdapterError(
                f"this model was trained for {engine.last_step:,} steps already; pass resume_from_checkpoint, or make "
                "a new model and Trainer"
            )

    # ---- the moments of a step

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any
    ) -> None:
        """Keep the Trainer from clipping before penalty and importance; forget a best model that is over budget."""
        hold_clipping(args)
        if not _engine(moment).frozen:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any
    ) -> None:
        """Penalty, importance, clipping; see to it that a step that is not finite is skipped."""
        engine = _engine(moment)
        penalty, self._skip = before_update(
            engine,
            0.0,
            max_grad_norm=give_clipping_back(args),
            penalty_in_scores=self._penalty_in_scores,
            call_order=self._order,
        )
        self._penalties.append(penalty)
        hold_back(moment["optimizer"], engine, self._skip)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any
    ) -> None:
        """Allocate; at the freeze the dead triplets leave memory."""
        engine, optimizer, step = _engine(moment), moment["optimizer"], state.global_step + 1
        assert self._skip is not None
        release(optimizer)
        budget = after_update(engine, step, self._skip, self._order)
        if budget is None or not engine.frozen:
            return
        removed = remove_dead(engine, optimizer) if self._compact and self._order == "paper" else 0
        _log.info("AdaLoRA: ranks frozen at step %d, budget %d; %d triplets left memory", step, budget, removed)

    # ---- beside the steps

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any) -> None:
        """`penalty` and the number of `live` triplets beside the training loss, on the screen and in `log_history`.

        Trackers such as TensorBoard get them where they come after this callback (docs/trainer.md).
        """
        logs = moment["logs"]
        if "loss" not in logs or not self._penalties:
            return
        engine = _engine(moment)
        live = engine.initial_triplets if engine.keep is None else int(engine.keep.sum())
        found = {"penalty": float(torch.stack(self._penalties).mean()), "live": live}
        self._penalties.clear()
        logs.update(found)
        state.log_history[-1].update(found)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any) -> None:
        """Put the engine's state into the checkpoint that the Trainer has just written."""
        add_engine(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}", _engine(moment))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **moment: Any
    ) -> None:
        """Take up the best checkpoint where the Trainer did not find it: an adapter with a name of its own."""
        give_clipping_back(args)
        self._start = None
        engine = _engine(moment)
        best: str | None = state.best_model_checkpoint
        if args.load_best_model_at_end and best is not None and self._restored != Path(best):
            self._restore(engine, Path(best))
        if not engine.frozen:
            warnings.warn(
                f"training ended at step {state.global_step:,}, before the freeze at step "
                f"{engine.schedule.freeze_step:,}: the ranks are above their target",
                stacklevel=2,
            )


def _attached(model: Any) -> AdaLoraEngine | None:
    tuner = getattr(model, "base_model", None)
    return tuner.engine if isinstance(tuner, HostedTuner) else None


def _engine(moment: dict[str, Any]) -> AdaLoraEngine:
    found: AdaLoraEngine = moment["model"].base_model.engine
    return found


def _trainable_config(model: Any) -> Any:
    """The config that `attach` will take."""
    configs = getattr(model, "peft_config", {}).values()
    return next((config for config in configs if not config.inference_mode and hasattr(config, "tinit")), None)


def _refuse_company(args: TrainingArguments) -> None:
    if args.world_size > 1 or args.n_gpu > 1 or args.deepspeed or args.fsdp:
        raise ConfigError(
            "AdaLoraCallback trains in one process on one device, for now; start it without torchrun, DeepSpeed or "
            "FSDP, and with one GPU visible (CUDA_VISIBLE_DEVICES=0)"
        )
