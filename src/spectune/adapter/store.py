"""All triplets of one model: the matrices, the banks, and the parts that layers multiply with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from spectune.adapter import compaction
from spectune.adapter.bank import Bank, output_parts, query_parts
from spectune.adapter.linear import Factors
from spectune.adapter.orthogonality import Frames, frames
from spectune.adapter.unattended import AllocatorWatch

_LOW_PRECISION = (torch.bfloat16, torch.float16, torch.float64)  # precisions of a base that parts are made in


@dataclass
class Matrix:
    """One adapted matrix: its layer, and its triplets in memory by their original slots (0 to init_r − 1)."""

    name: str
    layer: Any
    factors: Factors
    slots: list[int]


class TripletStore:
    """The data model of DESIGN 2.1: one bank of all λ, banks of Q rows and of Pᵀ rows by width."""

    def __init__(
        self,
        *,
        matrices: list[Matrix],
        values: Bank,
        queries: list[Bank],
        outputs: list[Bank],
        scale: float,
        adapter_name: str,
        make_aliases: Callable[[TripletStore], None],
    ) -> None:
        """Put the parts together.

        Args:
            matrices: in the order in which triplets are numbered.
            values: every λ, (n,).
            queries: rows of Q.
            outputs: rows of Pᵀ.
            scale: s = lora_alpha / (init_r + 1e-5).
            adapter_name: the host's name for this adapter.
            make_aliases: points the host's own entries at the rows (a module-level function: copies carry it).
        """
        self.matrices, self.values, self.queries, self.outputs = matrices, values, queries, outputs
        self.scale, self.adapter_name, self._make_aliases = scale, adapter_name, make_aliases
        self.held = False
        self.watch = AllocatorWatch()
        self._live: Tensor | None = None
        self.penalty_frames: list[Frames] = []
        self.lay_out(None)

    @property
    def sides(self) -> list[Bank]:
        """The banks of Q, then those of Pᵀ."""
        return [*self.queries, *self.outputs]

    @property
    def banks(self) -> list[Bank]:
        """All banks: λ, Q, Pᵀ."""
        return [self.values, *self.sides]

    def named_banks(self) -> dict[str, Bank]:
        """Banks by the names of their modules: lora_E, lora_A_<in features>, lora_B_<out features>."""
        named = {"lora_E": self.values}
        for kind, banks in (("lora_A", self.queries), ("lora_B", self.outputs)):
            for bank in banks:
                name = f"{kind}_{bank.rows.shape[1]}"
                named[name if name not in named else f"{name}_{len(named)}"] = bank
        return named

    def costs(self) -> list[int]:
        """Parameters of one triplet of each matrix: a column of P, a row of Q and λ."""
        costs = [1] * len(self.matrices)
        for bank in self.sides:
            for member in bank.members:
                costs[member] += bank.rows.shape[1]
        return costs

    def by_matrix(self, flat: list[bool]) -> list[list[bool]]:
        """Cut a list over triplets into one list per matrix."""
        rest = iter(flat)
        return [[next(rest) for _ in matrix.slots] for matrix in self.matrices]

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def refresh(self) -> None:
        """Make the parts of every layer anew from the banks; called at every root forward."""
        if self.held and self.matrices[0].factors.q is not None:  # a change of mode drops them in the middle, too
            return
        follow_base = torch.is_grad_enabled() or self.matrices[0].layer.training
        for bank in self.queries:
            for member, q in zip(bank.members, query_parts(bank, self._dtype(bank, follow_base)), strict=True):
                self.matrices[member].factors.q = q
        for bank in self.outputs:
            parts = output_parts(bank, self.values.rows, self.scale, self._dtype(bank, follow_base))
            for member, s in zip(bank.members, parts, strict=True):
                self.matrices[member].factors.s = s

    def _dtype(self, bank: Bank, follow_base: bool) -> torch.dtype:
        """The base's precision in training; without gradient the masters' own, which is how PEFT computes."""
        if not follow_base:
            return bank.rows.dtype
        device = bank.rows.device.type
        if torch.is_autocast_enabled(device):
            return torch.get_autocast_dtype(device)
        base = self.matrices[bank.members[0]].layer.get_base_layer()
        # a 4-bit layer unpacks its weights to a precision that it names
        dtype = base.weight.dtype if base.weight.dtype.is_floating_point else getattr(base, "compute_dtype", None)
        return dtype if dtype in _LOW_PRECISION else bank.rows.dtype

    def drop_parts(self) -> None:
        """Forget the parts: after a step, a load, a move, a change of mode."""
        for matrix in self.matrices:
            matrix.factors.q = None

    def hold(self, held: bool) -> None:
        """Make the parts once and keep them while `held`: weights do not change inside `generate`."""
        self.held = False
        if held:
            self.refresh()
        else:
            self.drop_parts()  # they carry no gradient
        self.held = held

    def realias(self) -> None:
        """Point the host's entries at the rows again, after anything that replaced or moved tensors."""
        self._make_aliases(self)
        self.drop_parts()
        self.lay_out(None if self._live is None else self._live.to(self.values.rows.device))

    @property
    def without_gradient(self) -> bool:
        """Whether no triplet has a gradient at all: nothing was differentiated, or the gradients are gone already."""
        return all(bank.rows.grad is None for bank in self.banks)

    @property
    def disabled(self) -> bool:
        """Whether the host computes without the adapter (`disable_adapter`), which it does in all layers or in none."""
        return bool(self.matrices[0].layer.disable_adapters)

    @property
    def leaves_dead_out(self) -> bool:
        """Whether the penalty counts only live triplets."""
        return self._live is not None

    def lay_out(self, live: Tensor | None) -> None:
        """Frames of the penalty; `live` (n,) bool leaves dead triplets out of it, None counts all in memory."""
        self._live = live
        self.penalty_frames = [
            frames(bank.sizes, bank.rows.device, bank.rows.dtype, None if live is None else live[bank.triplets])
            for bank in self.sides
        ]

    @torch.no_grad()
    def keep_only(self, keep: Tensor, optimizer: Any | None) -> list[Tensor]:
        """Remove all triplets but those of the mask `keep`, (n,), from the banks and the optimizer.

        Returns:
            For each bank, in order, the numbers of the rows that stayed. Reads the device.
        """
        kept = self.by_matrix(keep.tolist())
        for matrix, alive in zip(self.matrices, kept, strict=True):
            matrix.slots = [slot for slot, stays in zip(matrix.slots, alive, strict=True) if stays]
        renumber = keep.cumsum(0) - 1
        stayed = []
        for bank in self.banks:
            rows = keep[bank.triplets].nonzero().flatten()
            compaction.shrink(bank.rows, rows, optimizer)
            bank.triplets = renumber[bank.triplets[rows]]
            bank.sizes = [len(self.matrices[member].slots) for member in bank.members]
            stayed.append(rows)
        self._live = None
        self.realias()
        return stayed

    def keep_slots(self, slots: list[list[int]]) -> None:
        """`keep_only` by the original slots of every matrix, as a saved state names them."""
        pairs = zip(self.matrices, slots, strict=True)
        wanted = [slot in chosen for matrix, chosen in pairs for slot in matrix.slots]
        if not all(wanted):
            self.keep_only(torch.tensor(wanted, device=self.values.rows.device), None)
