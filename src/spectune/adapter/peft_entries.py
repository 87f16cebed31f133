"""PEFT's entries (`lora_A["default"]`, …) as frozen aliases of bank rows, and PEFT's rank pattern."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.store import TripletStore
from spectune.errors import AdapterError

ENTRIES = ("lora_A", "lora_E", "lora_B")
"""PEFT's names for Q, λ and P of a layer."""


def kept_rows(kind: str, entry: Tensor, mask: Tensor) -> Tensor:
    """The triplets of `mask`, (r,) bool, of one of PEFT's entries, as a tensor of its own."""
    kept = mask.to(entry.device)
    return (entry[:, kept] if kind == "lora_B" else entry[kept]).contiguous()


def sync_rank_pattern(tuner: Any) -> None:
    """Write the survivors into PEFT's configuration: for each matrix, which of init_r slots a save holds.

    Entries whose bank was given another tensor (`vector_to_parameters` does) are pointed at its rows again first.
    """
    store = tuner.engine.store
    if any(entries[store.adapter_name].data_ptr() != view.data_ptr() for entries, view in _views(store)):
        tuner.engine.follow()
    config = tuner.peft_config[tuner.hosted_adapter]
    config.rank_pattern = rank_pattern(tuner.engine)


def rank_pattern(engine: AdaLoraEngine) -> dict[str, list[bool]] | None:
    """PEFT's `rank_pattern`, keyed without adapter name; None while all of init_r is alive. Reads the device."""
    pattern = {}
    for matrix, saved in zip(engine.store.matrices, engine.saved(), strict=True):
        alive = {slot for slot, stays in zip(matrix.slots, saved, strict=True) if stays}
        pattern[f"{matrix.name}.lora_E"] = [slot in alive for slot in range(engine.schedule.init_r)]
    return None if all(all(slots) for slots in pattern.values()) else pattern


def make_aliases(store: TripletStore) -> None:
    """Replace PEFT's entries by frozen Parameters over the banks' rows; they share storage and version counter."""
    for entries, view in _views(store):
        entries[store.adapter_name] = nn.Parameter(view, requires_grad=False)


def _views(store: TripletStore) -> Iterator[tuple[Any, Tensor]]:
    """Each of PEFT's dictionaries of entries, with the view of bank rows that belongs there."""
    for bank, kind in (
        (store.values, "lora_E"),
        *((bank, "lora_A") for bank in store.queries),
        *((bank, "lora_B") for bank in store.outputs),
    ):
        for member, rows in zip(bank.members, bank.rows.detach().split(bank.sizes), strict=True):
            view = rows.unsqueeze(1) if kind == "lora_E" else rows.t() if kind == "lora_B" else rows
            yield getattr(store.matrices[member].layer, kind), view


class RefreshHook:
    """Before a call of the inner model itself (not through PEFT): make the parts anew. A class, so that it copies."""

    def __init__(self, store: TripletStore) -> None:
        self.store = store

    def __call__(self, module: nn.Module, args: Any) -> None:
        self.store.refresh()


class LoadingHook:
    """Before `load_state_dict`: what a compacted run has written is complete, and of this engine's widths.

    Libraries that drop tensors which share memory (accelerate) drop entries of rank 0 with them: they hold nothing.

    Raises:
        AdapterError: the entries have other ranks than the banks, which `engine.load_state_dict` brings back first.
    """

    def __init__(self, store: TripletStore) -> None:
        self.store = store

    def __call__(self, module: nn.Module, state: dict[str, Tensor], prefix: str, *others: Any) -> None:
        for matrix in self.store.matrices:
            for kind in ENTRIES:
                entry = getattr(matrix.layer, kind)[self.store.adapter_name]
                key = f"{prefix}model.{matrix.name}.{kind}.{self.store.adapter_name}"
                if not entry.numel():
                    state.setdefault(key, entry.detach().clone())
                if key in state and state[key].shape != entry.shape:
                    raise AdapterError(
                        f"{matrix.name} has {len(matrix.slots)} triplets here and other ranks where it was saved: a "
                        "run was compacted; call engine.load_state_dict() with its state before loading the weights"
                    )


class LoadedHook:
    """After `load_state_dict`: it wrote through the aliases, or (`assign=True`) put other tensors in their place."""

    def __init__(self, store: TripletStore) -> None:
        self.store = store

    @torch.no_grad()
    def __call__(self, module: nn.Module, incompatible_keys: Any) -> None:
        for entries, view in _views(self.store):
            entry = entries[self.store.adapter_name]
            if entry.data_ptr() != view.data_ptr():
                view.copy_(entry)
        self.store.realias()
