"""The training loop: windows in, steps, and at their moments logging, evaluation, checkpoints, compaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from spectune.config import RunConfig
from spectune.data.assembly import TrainingStream, Window
from spectune.errors import DataError, ElsewhereError, Interrupted, RunError
from spectune.evaluation.evaluate import Evaluation
from spectune.evaluation.metrics import LOSS, ranking
from spectune.training.checkpoint import Trained
from spectune.training.directory import RunDirectory
from spectune.training.facts import Allocation, allocation_facts, evaluation_facts
from spectune.training.faults import memory_explained
from spectune.training.journal import Journal
from spectune.training.learning_rate import LearningRate
from spectune.training.parallel import ALONE, Processes
from spectune.training.phases import PhaseLosses
from spectune.training.progress import Pace, Reporter
from spectune.training.saving import Progress, save_loop
from spectune.training.signals import Stop
from spectune.training.step import StepOptions, StepResult, training_step

SKIPS_IN_A_ROW = 100
WORTH_COMPACTING = 1 / 8  # share of the triplets in memory that must be dead for good, before the freeze


@dataclass
class Loop:
    """The parts of one run; `train` moves it from `progress.step` to the end."""

    config: RunConfig
    model: Any
    trained: Trained
    loader: TrainingStream
    rate: LearningRate
    options: StepOptions
    checkpoints: Path
    journal: Journal
    reporter: Reporter
    stop: Stop
    evaluate: Callable[[], Evaluation] | None
    metric: str
    fingerprint: dict[str, Any]
    processes: Processes = ALONE
    streamed: bool = False
    """Whether the loader may fail, for it reads as it goes."""
    place: dict[str, Any] | None = None
    """The loader's state before a window that will not be taken."""
    progress: Progress = field(default_factory=Progress)
    losses: PhaseLosses = field(default_factory=PhaseLosses)
    latest: tuple[int, Evaluation] | None = None
    """Step and result of the last evaluation."""
    pending: list[StepResult] = field(default_factory=list)
    """Steps since the last log, still on the device."""
    unlogged: list[list[float]] = field(default_factory=list)
    """Steps since the last log that a save has read already: loss, penalty, skipped."""
    allocations: list[Allocation] = field(default_factory=list)
    """Those not yet in the journal."""
    saved_step: int | None = None
    """The step of the last checkpoint."""
    save_seconds: list[float] = field(default_factory=list)
    """What each save of this process took."""

    def train(self) -> None:
        """Run to the last step, or until the metric has stopped to improve.

        Raises:
            Interrupted: a signal asked to stop; the state is saved.
            RunError: a checkpoint cannot be written, memory is full, or too many steps in a row were not finite.
        """
        self.model.train()
        with self.stop.noting():
            if self.progress.evaluation_due:
                self.progress.evaluation_due = False
                self._moments(self.progress.step)
            if not self._finished_early():
                self._steps()

    def _steps(self) -> None:
        engine, schedule = self.trained.engine, self.trained.engine.schedule
        pace = Pace(self.progress.step, schedule.total_step)
        windows = iter(self.loader)
        while self.progress.step < schedule.total_step:
            step = self.progress.step + 1
            window = self._next(windows)
            if step == 1 or schedule.phase(step) != schedule.phase(step - 1):
                self._enter_phase(step)
            with memory_explained(self.config, "training"):
                result = training_step(
                    self.model,
                    engine,
                    self.trained.optimizer,
                    window,
                    step=step,
                    rate=self.rate.at(step),
                    options=self.options,
                )
            self.progress.step = step
            self.pending.append(result)
            pace.add(window.source_tokens + window.target_tokens)
            if result.budget is not None:
                self._allocated(step, result.budget)
            if self._logs(step):
                self._log(step, pace, window.epoch)
            self._moments(step)
            if self._finished_early():
                patience = self.config.evaluation.early_stopping_patience
                self.reporter.line(f"stopped early: {self.metric} has not improved for {patience} evaluations")
                break

    def _next(self, windows: Iterator[Window]) -> Window:
        """The next window; where a stream breaks off or holds a row that must be mended, the state is saved first.

        It may break off in one process alone, so all of them hear of it, and save together.
        """
        shared = self.streamed and self.processes.several
        before = self.loader.state_dict() if shared else None
        try:
            return self.processes.together(partial(next, windows)) if shared else next(windows)
        except (DataError, ElsewhereError, Interrupted) as error:
            self.place = before
            if self.progress.step and self.saved_step != self.progress.step:
                save_loop(self, due=False)
            if not isinstance(error, DataError):
                raise
            raise DataError(f"{error}; {RunDirectory(self.checkpoints.parent).resume_hint()}") from None

    # ---- moments

    def _moments(self, step: int) -> None:
        """Evaluate and save when due, and stop if a signal asks for it."""
        self._at_evaluation(step)
        due = self._save_due(step)
        asked = self.processes.highest(self.stop.signum)
        if due or (asked is not None and self.saved_step != step):
            save_loop(self, due=due)
            asked = self.processes.highest(self.stop.signum)
        if asked is not None:
            raise Interrupted(asked)

    def _enter_phase(self, step: int) -> None:
        schedule = self.trained.engine.schedule
        phase = schedule.phase(step)
        first, last = schedule.phases()[phase]
        self.journal.write("phase", step, phase=phase, first=first, last=last)
        self.reporter.line(f"{phase}: steps {first:,} to {last:,}, learning rate {self.rate.at(step):.2e}")

    def _allocated(self, step: int, budget: int) -> None:
        """Note an allocation; it is read from the device with the next log. What is dead for good leaves memory, at the
        freeze or once it is worth a reading of the device."""
        engine = self.trained.engine
        assert engine.keep is not None
        assert engine.threshold is not None
        assert engine.chosen_by is not None
        self.processes.check_live(engine.keep, step)
        self.allocations.append(Allocation(step, budget, engine.keep, engine.threshold, engine.chosen_by))
        in_memory = len(engine.keep)
        dead = 1 - budget / engine.spending.in_memory()
        permanent = self.config.adapter.pruning == "permanent" and dead >= WORTH_COMPACTING
        if self.config.adapter.call_order == "paper" and (engine.frozen or permanent):
            self._write_allocations()  # while the masks still fit the triplets in memory
            removed = engine.compact(self.trained.optimizer)
            self.journal.write("compaction", step, removed=removed, left=in_memory - removed)
            if engine.frozen:
                left = len(engine.store.values.rows)
                gone = engine.initial_triplets - left
                self.reporter.line(f"frozen at {left:,} triplets; {gone:,} dead ones removed from memory")

    def _write_allocations(self) -> None:
        for step, facts in allocation_facts(self.allocations, self.trained.engine.store):
            self.journal.write("allocation", step, **facts)
        self.allocations.clear()

    def _logs(self, step: int) -> bool:
        schedule = self.trained.engine.schedule
        last = step == schedule.total_step or schedule.phase(step + 1) != schedule.phase(step)
        return last or step % self.config.train.logging_steps == 0

    def read(self) -> None:
        """The one place that reads the device: losses, penalties and skips since the last time, together."""
        self._write_allocations()
        if self.pending:
            rows = torch.stack([torch.stack([r.loss, r.penalty, r.skipped.float()]) for r in self.pending])
            self.unlogged += rows.tolist()
            self.pending.clear()

    def _log(self, step: int, pace: Pace, epoch: float) -> None:
        """Means since the last log, to the journal and the screen."""
        self.read()
        rows, self.unlogged = self.unlogged, []
        self._count_skips([bool(skipped) for _, _, skipped in rows])
        taken = [(loss, penalty) for loss, penalty, skipped in rows if not skipped] or [(float("nan"),) * 2]
        loss, penalty = (sum(column) / len(taken) for column in zip(*taken, strict=True))
        engine = self.trained.engine
        phase = engine.schedule.phase(step)
        self.losses.add(phase, loss)
        live = engine.initial_triplets if engine.keep is None else int(engine.keep.sum())
        spent = engine.spending.of(engine.keep) if engine.spending.by_parameters else live
        speed = pace.tokens_per_second()
        self.journal.write(
            "step",
            step,
            epoch=round(epoch, 4),
            phase=phase,
            loss=loss,
            penalty=penalty,
            learning_rate=self.rate.at(step),
            live=live,
            spent=spent,
            tokens_per_second=round(speed, 1),
            skipped=self.progress.skipped,
        )
        shown = self.config.train.logging_steps * max(1, engine.schedule.total_step // 200)
        self.reporter.live(
            f"step {step:,}/{engine.schedule.total_step:,}  {phase}  loss {loss:.4f}  penalty {penalty:.4f}  "
            f"rank {self._spending(live, spent)}  {speed:,.0f} tokens/s  {pace.left(step)} left",
            permanent=step % shown == 0 or step == engine.schedule.total_step,
        )

    def _spending(self, live: int, spent: int) -> str:
        target = self.trained.engine.target_budget
        if not self.trained.engine.spending.by_parameters:
            return f"{live:,} of {target:,}"
        return f"{live:,}, {spent:,} of {target:,} parameters"

    def _count_skips(self, skipped: list[bool]) -> None:
        for skip in skipped:
            self.progress.skipped += skip
            self.progress.skipped_in_a_row = self.progress.skipped_in_a_row + 1 if skip else 0
            if self.progress.skipped_in_a_row >= SKIPS_IN_A_ROW:
                raise RunError(
                    f"{SKIPS_IN_A_ROW} steps in a row had a loss or gradient that is not finite; lower "
                    "train.learning_rate or use model.dtype float32. The last checkpoint is whole."
                )

    def _at_evaluation(self, step: int) -> None:
        """Evaluate when due. A signal breaks it off; then the state is saved and a continuation evaluates first."""
        if self.evaluate is None or not self._evaluation_due(step):
            return
        self.read()  # so that the journal is in the order of the steps, wherever a run is stopped
        try:
            with self.stop.raising():
                result = self.evaluate()
        except Interrupted:
            self.progress.evaluation_due = True
            save_loop(self, due=False)
            raise
        self.latest = (step, result)
        values = {name: metric.value for name, metric in result.metrics.items()}
        frozen = self.trained.engine.frozen
        self.progress.evaluations.append({"step": step, **values})
        self.journal.write("evaluation", step, **evaluation_facts(result), candidate=frozen)
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        self.reporter.line(f"evaluation at step {step:,}: {shown}")
        if frozen:
            self._compare(step, values[self.metric], values.get(LOSS, 0.0))

    def _compare(self, step: int, value: float, loss: float) -> None:
        """The best so far; of equal values the one of lower loss, which is no gain to an early stop, though."""
        rank, best = partial(ranking, self.metric), self.progress.best
        if best is None or rank(value, 0.0) > rank(best["value"], 0.0):
            self.progress.without_gain = 0
        else:
            self.progress.without_gain += 1
        if best is None or rank(value, loss) > rank(best["value"], best.get("loss", 0.0)):
            self.progress.best = {"step": step, "metric": self.metric, "value": value, "loss": loss}

    def _evaluation_due(self, step: int) -> bool:
        evaluation, total = self.config.evaluation, self.trained.engine.schedule.total_step
        if evaluation.eval_strategy == "no":
            return False
        if evaluation.eval_strategy == "epoch":
            return step == total or self.loader.epoch_ended
        return step == total or step % (evaluation.eval_steps or total) == 0

    def _save_due(self, step: int) -> bool:
        every, total = self.config.train.save_steps, self.trained.engine.schedule.total_step
        due = step % every == 0 if every else self._evaluation_due(step)
        is_best = self.progress.best is not None and self.progress.best["step"] == step
        return due or is_best or step == total or self._finished_early()

    def _finished_early(self) -> bool:
        patience = self.config.evaluation.early_stopping_patience
        return patience is not None and self.progress.without_gain >= patience
