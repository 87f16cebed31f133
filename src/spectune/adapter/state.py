"""Saving and restoring the engine and an optimizer: plain JSON values and a flat dictionary of tensors, no pickle."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spectune.adapter.store import TripletStore
from spectune.errors import AdapterError

if TYPE_CHECKING:
    from spectune.adapter.engine import AdaLoraEngine

VERSION = 1
_KINDS = ("sensitivity", "uncertainty")


def engine_state(engine: AdaLoraEngine) -> dict[str, Any]:
    """The engine's state as {"meta": …, "tensors": …}; tensors are copies."""
    named = engine.store.named_banks()
    tensors = {f"bank.{name}": bank.rows.detach().clone() for name, bank in named.items()}
    tensors |= {name: parameter.detach().clone() for name, parameter in _trained_in_full(engine).items()}
    if engine.keep is not None:
        tensors["keep"] = engine.keep.clone()
    if engine.averages is not None:
        for kind in _KINDS:
            pairs = zip(named, getattr(engine.averages, kind), strict=False)
            tensors |= {f"{kind}.{name}": average.clone() for name, average in pairs}
    tensors |= {f"final_scores.{name}": scores.clone() for name, scores in engine.final_scores.items()}
    return {"meta": _identity(engine) | _progress(engine), "tensors": tensors}


def restore_engine(engine: AdaLoraEngine, saved: dict[str, Any]) -> None:
    """Put a saved state into a freshly attached engine; everything is checked first."""
    from spectune.adapter.engine import Averages

    meta, tensors = saved["meta"], saved["tensors"]
    for key, value in _identity(engine).items():
        if meta.get(key) != value:
            raise AdapterError(f"the saved engine state has another {key} ({meta.get(key)!r}, here {value!r})")
    _check_shapes(engine, meta, tensors)
    engine.store.keep_slots(meta["slots"])
    device = engine.store.values.rows.device
    with torch.no_grad():
        for name, bank in engine.store.named_banks().items():
            bank.rows.copy_(tensors[f"bank.{name}"])
        for name, parameter in _trained_in_full(engine).items():
            parameter.copy_(tensors[name])
    engine.frozen, engine.last_step = meta["frozen"], meta["last_step"]
    engine.allocator_calls = meta["allocator_calls"]
    engine.keep = tensors["keep"].to(device) if "keep" in tensors else None
    engine.averages = None
    if "sensitivity.lora_E" in tensors:
        names = [name for name in engine.store.named_banks() if f"sensitivity.{name}" in tensors]
        of_kind = ([tensors[f"{kind}.{name}"].clone().to(device) for name in names] for kind in _KINDS)
        engine.averages = Averages(*of_kind)
    prefix = "final_scores."
    engine.final_scores = {k.removeprefix(prefix): v.clone() for k, v in tensors.items() if k.startswith(prefix)}
    engine.store.realias()
    engine.store.lay_out(engine.keep if meta["dead_left_out"] else None)


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as tensors by name, and the rest as JSON values."""
    saved = optimizer.state_dict()
    tensors, scalars = {}, {}
    for number, entries in saved["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = value
            else:
                scalars[f"{number}.{key}"] = value
    return tensors, {"groups": saved["param_groups"], "scalars": scalars}


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Put `optimizer_state` back; other names among the tensors are not its business."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor
    for name, value in saved["scalars"].items():
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in saved["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def scores_by_slot(store: TripletStore, scores: Tensor, init_r: int) -> dict[str, Tensor]:
    """Scores (n,) as one vector per matrix over its original slots, (init_r,); NaN where a triplet was gone."""
    table = scores.new_full((len(store.matrices) * init_r,), torch.nan)
    places = [number * init_r + slot for number, matrix in enumerate(store.matrices) for slot in matrix.slots]
    table[torch.tensor(places, device=scores.device)] = scores
    return dict(zip((matrix.name for matrix in store.matrices), table.view(-1, init_r), strict=True))


def _identity(engine: AdaLoraEngine) -> dict[str, Any]:
    """What must be the same here and there."""
    return {
        "version": VERSION,
        "schedule": asdict(engine.schedule),
        "options": asdict(engine.options),
        "matrices": [matrix.name for matrix in engine.store.matrices],
        "initial_budget": engine.initial_budget,
    }


def _progress(engine: AdaLoraEngine) -> dict[str, Any]:
    return {
        "last_step": engine.last_step,
        "frozen": engine.frozen,
        "allocator_calls": engine.allocator_calls,
        "slots": [list(matrix.slots) for matrix in engine.store.matrices],
        "dead_left_out": engine.store.leaves_dead_out,
    }


def _trained_in_full(engine: AdaLoraEngine) -> dict[str, torch.nn.Parameter]:
    """Parameters of modules trained beside the triplets, by their numbers in `engine.parameters()`."""
    banks = len(engine.store.banks)
    return {f"extra.{number}": p for number, p in enumerate(engine.parameters()) if number >= banks}


def _check_shapes(engine: AdaLoraEngine, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    for matrix, slots in zip(engine.store.matrices, meta["slots"], strict=True):
        if not set(slots) <= set(matrix.slots):
            raise AdapterError(f"the saved state has triplets of {matrix.name} that are gone here; attach afresh")
    for name, bank in engine.store.named_banks().items():
        count = sum(len(meta["slots"][member]) for member in bank.members)
        expected = (count, *bank.rows.shape[1:])
        found = tuple(tensors[f"bank.{name}"].shape) if f"bank.{name}" in tensors else None
        if found != expected:
            raise AdapterError(f"the saved bank {name} has shape {found}, expected {expected}")
    here = {name: tuple(parameter.shape) for name, parameter in _trained_in_full(engine).items()}
    there = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name.startswith("extra.")}
    if here != there:
        raise AdapterError(
            f"the saved state has {len(there)} parameters of modules trained in full, here they are {len(here)}, or of "
            "other shapes; give the same modules_to_save and bias"
        )
