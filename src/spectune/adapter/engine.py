"""The engine: importance, budget, pruning, penalty and compaction over one model's triplets.

The algorithm of the paper (Zhang et al. 2023, algorithm 1) as a handful of operations over whole banks. It knows
nothing of PEFT, of data or of the loop; `peft_host.attach` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from spectune.adapter import compaction, orthogonality, state
from spectune.adapter.importance import triplet_scores, update_averages
from spectune.adapter.options import EngineOptions
from spectune.adapter.schedule import RankSchedule, check_budget
from spectune.adapter.spending import Spending
from spectune.adapter.store import TripletStore
from spectune.adapter.unattended import tell_of_late_start
from spectune.errors import AdapterError


@dataclass
class Averages:
    """Sensitivity and uncertainty of λ alone, or of λ and every bank in order. Freed after the freeze."""

    sensitivity: list[Tensor] = field(default_factory=list)
    uncertainty: list[Tensor] = field(default_factory=list)

    def to(self, bank: Tensor) -> Averages:
        """The same numbers on the device and in the precision of a bank."""
        return Averages([a.to(bank) for a in self.sensitivity], [a.to(bank) for a in self.uncertainty])


class AdaLoraEngine:
    """Adaptive rank allocation over the triplets of one model.

    Attributes:
        store: banks and matrices.
        schedule: the resolved budget schedule.
        options: smoothing, penalty weight and the choices of `attach`.
        spending: what triplets cost: one each, or their parameters where `options.budget` is given.
        initial_budget: what the schedule starts from, in that unit.
        target_budget: what it ends at, likewise.
        initial_triplets: triplets at the start.
        keep: (n,) bool, the triplets kept by the last allocation; None before the first.
        threshold: the lowest score that survived the last allocation, a scalar on the device.
        chosen_by: (n,) scores of the last allocation, of the triplets then in memory.
        frozen: whether the survivors are fixed.
        last_step: last optimizer step it was called for; −1 before the first.
        allocator_calls: calls of `reallocate` or `update_and_allocate`.
        final_scores: scores at the freeze by matrix name and original slot, (init_r,) each, NaN where pruned before.
    """

    def __init__(
        self, store: TripletStore, schedule: RankSchedule, options: EngineOptions, extra: list[nn.Parameter]
    ) -> None:
        self.store, self.schedule, self.options, self._extra = store, schedule, options, extra
        self.initial_triplets = len(store.values.rows)
        self.spending = Spending(store, by_parameters=options.budget is not None)
        self.initial_budget = self.spending.in_memory()
        self.target_budget = min(schedule.target_r * len(store.matrices), self.initial_budget)
        if options.budget is not None:
            dearest = max(self.spending.costs)
            check_budget(options.budget, initial=self.initial_budget, dearest=dearest, init_r=schedule.init_r)
            self.target_budget = options.budget
        self.keep: Tensor | None = None
        self.threshold: Tensor | None = None
        self.chosen_by: Tensor | None = None
        self.averages: Averages | None = None
        self.final_scores: dict[str, Tensor] = {}
        self.frozen, self.last_step, self.allocator_calls = False, -1, 0

    def reschedule(self, schedule: RankSchedule) -> None:
        """Take another schedule, of the same ranks; before the first step only."""
        if self.last_step >= 0:
            raise AdapterError(f"the schedule is in use since step {self.last_step}; detach(model) and attach anew")
        self.schedule = schedule

    def parameters(self) -> list[nn.Parameter]:
        """All trainable parameters of the model: the banks, then modules trained in full."""
        return [*(bank.rows for bank in self.store.banks), *self._extra]

    # ---- penalty

    def penalty(self) -> Tensor:
        """γ times the mean of ‖G − I‖_F over both sides of all matrices: a scalar, differentiable once."""
        rows = [bank.rows for bank in self.store.sides]
        penalty = cast(Any, orthogonality.Penalty)
        return cast(Tensor, penalty.apply(self._penalty_weight, self.store.penalty_frames, *rows))

    @torch.no_grad()
    def add_orthogonality_gradient(self) -> Tensor:
        """Add the penalty's gradient to the banks' gradients; returns the penalty, a scalar on the device.

        Raises:
            AdapterError: attached with penalty="loss", where backward adds it already.
        """
        if self.options.penalty == "loss":
            raise AdapterError(
                'add_orthogonality_gradient() would count the penalty twice; attach(model, penalty="step") to use it'
            )
        self._clear_dead_gradient()
        norms = []
        for bank, layout in zip(self.store.sides, self.store.penalty_frames, strict=True):
            if bank.rows.grad is None:
                bank.rows.grad = torch.zeros_like(bank.rows)
            norms.append(orthogonality.add_gradient(bank.rows, layout, self._penalty_weight, bank.rows.grad))
        return torch.cat(norms).sum() * self._penalty_weight

    @property
    def _penalty_weight(self) -> float:
        return self.options.orth_reg_weight / (2 * len(self.store.matrices))

    # ---- importance

    @torch.no_grad()
    def observe(self, skip: Tensor | None = None) -> None:
        """Take this step's gradients into the averages; in the paper's order before `optimizer.step()`.

        A missing gradient counts as zero.

        Args:
            skip: scalar bool on the device, true where the step's gradients are not finite and leave the averages
                alone; None: it is found out here (a GradScaler overflows in its first steps, and one infinite number
                would stay in the averages).
        """
        self._clear_dead_gradient()
        if self.frozen:
            return
        banks = [self.store.values] if self.options.importance == "triplet" else self.store.banks
        weights = [bank.rows.detach() for bank in banks]
        grads = [torch.zeros_like(bank.rows) if bank.rows.grad is None else bank.rows.grad for bank in banks]
        if skip is None:
            skip = ~torch.isfinite(nn.utils.get_total_norm(grads))
        if self.averages is None:
            self.averages = Averages([torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights])
        update_averages(
            weights,
            grads,
            self.averages.sensitivity,
            self.averages.uncertainty,
            beta1=self.options.beta1,
            beta2=self.options.beta2,
            skip=skip,
        )

    def _clear_dead_gradient(self) -> None:
        """In the paper's order the dead leave the clip norm: a dead triplet has no other gradient than that of λ."""
        grad = self.store.values.rows.grad
        if self.store.leaves_dead_out and self.keep is not None and grad is not None:
            grad.masked_fill_(~self.keep, 0.0)

    @torch.no_grad()
    def scores(self) -> Tensor:
        """Current score of every triplet in memory, (n,); zeros before the first observation."""
        if self.averages is None:
            return torch.zeros_like(self.store.values.rows)
        numbers = [None, *(bank.triplets for bank in self.store.sides)][: len(self.averages.sensitivity)]
        return triplet_scores(self.averages.sensitivity, self.averages.uncertainty, numbers)

    # ---- allocation

    def reallocate(self, step: int) -> int | None:
        """The paper's order: after `optimizer.step()`, keep the triplets that the budget of `step` holds.

        Returns:
            The budget, if triplets were chosen at this step.

        Raises:
            AdapterError: a step that repeats or goes back.
        """
        budget = self._allocate(step)
        if budget is not None and (self.frozen or self.options.pruning == "permanent"):
            self.store.lay_out(self.keep)  # what is dead for good leaves the penalty, compacted or not
        return budget

    def update_and_allocate(self, step: int, skip: Tensor | None = None) -> None:
        """PEFT's call, after `optimizer.step()` and before `zero_grad()`; PEFT's allocator step for step.

        Args:
            step: optimizer step.
            skip: as in `observe`.

        Raises:
            AdapterError: a step that repeats or goes back.
        """
        if step < self.schedule.freeze_step:
            self.observe(skip)
        self._allocate(step)

    @torch.no_grad()
    def _allocate(self, step: int) -> int | None:
        if step <= self.last_step:
            raise AdapterError(
                f"step {step} after step {self.last_step}: count optimizer steps from 1, on over epochs, once each"
            )
        tell_of_late_start(self.last_step, step)
        self.last_step, self.allocator_calls = step, self.allocator_calls + 1
        self.store.drop_parts()
        self.store.watch.answered()
        budget = self._budget_due(step)
        if budget is not None:
            self._choose(budget, final=step >= self.schedule.freeze_step)
        stays_cut = self.frozen or self.options.pruning == "permanent"
        if self.keep is not None and (budget is not None or stays_cut):
            self.store.values.rows.masked_fill_(~self.keep, 0.0)
        return budget

    def _budget_due(self, step: int) -> int | None:
        """The budget if `step` allocates; a call that jumped over the freeze step still freezes."""
        if self.frozen or not (self.schedule.allocates(step) or step > self.schedule.freeze_step):
            return None
        return self.schedule.budget(step, self.initial_budget, self.target_budget)

    def _choose(self, budget: int, *, final: bool) -> None:
        scores = self.scores()
        candidates = self.keep if self.options.pruning == "permanent" else None
        self.keep, self.chosen_by = self.spending.choose(scores, budget, candidates), scores
        self.threshold = torch.where(self.keep, scores, torch.inf).min()
        if final:
            self.final_scores = state.scores_by_slot(self.store, scores, self.schedule.init_r)
            self.frozen, self.averages = True, None

    @torch.no_grad()
    def compact(self, optimizer: Any | None = None) -> int:
        """Remove the dead triplets from memory, with their gradients, averages and the optimizer's moments.

        Changes no output and not the next update of the survivors. This call reads the device.

        Returns:
            Triplets removed.

        Raises:
            AdapterError: before the freeze (a cut triplet may grow back, unless pruning is permanent), or an
                optimizer that does not train the banks or is not elementwise.
        """
        if self.keep is None or (not self.frozen and self.options.pruning == "revivable"):
            raise AdapterError(f"nothing is final before step {self.schedule.freeze_step}; call compact() after it")
        if optimizer is not None:
            compaction.check_optimizer(optimizer, {name: bank.rows for name, bank in self.store.named_banks().items()})
        before = len(self.keep)
        stayed = self.store.keep_only(self.keep, optimizer)
        if self.averages is not None:
            for averages in (self.averages.sensitivity, self.averages.uncertainty):
                averages[:] = [average.index_select(0, rows) for average, rows in zip(averages, stayed, strict=False)]
        self.keep = torch.ones_like(self.store.values.rows, dtype=torch.bool)
        return before - len(self.keep)

    def follow(self) -> None:
        """After a move of the model: aliases, averages and masks follow the banks."""
        device = self.store.values.rows.device
        self.keep = None if self.keep is None else self.keep.to(device)
        self.averages = None if self.averages is None else self.averages.to(self.store.values.rows.detach())
        self.store.realias()

    # ---- what is known; each of these reads the device

    def ranks(self) -> dict[str, int]:
        """Live rank of every adapted matrix: the triplets kept by the last allocation."""
        kept = self._by_matrix(self.keep)
        return {matrix.name: sum(alive) for matrix, alive in zip(self.store.matrices, kept, strict=True)}

    def saved(self) -> list[list[bool]]:
        """For each matrix, for each triplet in memory, whether a save writes it: kept, or with λ ≠ 0."""
        return self._by_matrix(None if self.keep is None else self.keep | (self.store.values.rows.detach() != 0))

    def _by_matrix(self, mask: Tensor | None) -> list[list[bool]]:
        flat = [True] * len(self.store.values.rows) if mask is None else mask.tolist()
        return self.store.by_matrix(flat)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resume needs beside the optimizer's state.

        Returns:
            {"meta": values that JSON can hold, "tensors": {name: tensor}}, full-size banks included.
        """
        return state.engine_state(self)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Restore a state into an engine freshly attached to the same model; the banks shrink as they had.

        Raises:
            AdapterError: the state is of another version, schedule, option or model.
        """
        state.restore_engine(self, saved)
