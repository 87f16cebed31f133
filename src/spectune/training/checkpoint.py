"""Checkpoints: the full-size training state, apart from the compact adapter that is shared.

Tensors in safetensors, the rest in JSON, nothing is pickled. A checkpoint exists when its manifest does; the manifest
also holds the fingerprint of the run that made it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.schedule import RankSchedule
from spectune.adapter.state import optimizer_state, restore_optimizer
from spectune.errors import RunError
from spectune.files import read_json, remove, write_json, write_new
from spectune.manifest import verify_manifest, whole_directory
from spectune.training.directory import list_checkpoints, step_of

_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of the model and its optimizer."""

    engine: AdaLoraEngine
    optimizer: torch.optim.Optimizer


def save_checkpoint(
    directory: Path, trained: Trained, progress: dict[str, Any], fingerprint: Mapping[str, Any]
) -> None:
    """Write `directory` as a whole: engine, optimizer, random states, and `progress` (JSON values of the loop).

    Args:
        fingerprint: of the run, kept in the manifest.
    """
    meta, tensors = _of_engine(trained.engine)
    moments, groups = optimizer_state(trained.optimizer)
    state = {"engine": meta, "optimizer": groups, "random": _random_values(), "progress": progress}
    _write(directory, state, tensors | moments | _random_tensors(), fingerprint)


def save_engine(directory: Path, engine: AdaLoraEngine) -> None:
    """Write `directory` as a whole: the engine alone, for a loop that saves the rest itself."""
    meta, tensors = _of_engine(engine)
    _write(directory, {"engine": meta}, tensors, {})


def load_engine(directory: Path, engine: AdaLoraEngine) -> None:
    """Restore `save_engine` with the schedule that it had; raises as `load_checkpoint`."""
    verify_manifest(directory)
    meta = read_json(directory / _STATE)["engine"]
    engine.schedule = RankSchedule(**meta["schedule"])
    _restore_engine(engine, meta, load_file(directory / _TENSORS))


def _of_engine(engine: AdaLoraEngine) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The engine and the modules trained in full: JSON values, and tensors by name."""
    state = engine.state_dict()
    tensors = {f"engine.{name}": tensor for name, tensor in state["tensors"].items()}
    return state["meta"], tensors | {name: parameter.detach() for name, parameter in _extra(engine).items()}


def _write(
    directory: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor], fingerprint: Mapping[str, Any]
) -> None:
    # Serialised in memory: an adapter is small, and every byte then goes through one writer that flushes.
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    with whole_directory(directory, fingerprint=fingerprint) as partial:
        write_new(partial / _TENSORS, content)
        write_json(partial / _STATE, state)


def load_checkpoint(directory: Path, trained: Trained, *, weights_only: bool = False) -> dict[str, Any]:
    """Restore a checkpoint and return its `progress`; everything is verified before anything is changed.

    Args:
        directory: a whole checkpoint.
        trained: freshly made engine and optimizer of the same run (or the run's own, past its freeze).
        weights_only: the engine and the modules trained in full; optimizer and random states stay as they are.

    Raises:
        RunError: damaged, or unreadable.
        AdapterError: of another run.
    """
    verify_manifest(directory)
    state = read_json(directory / _STATE)
    tensors = load_file(directory / _TENSORS)
    _restore_engine(trained.engine, state["engine"], tensors)
    if not weights_only:
        restore_optimizer(trained.optimizer, state["optimizer"], tensors)
        _restore_random(tensors, state["random"])
    progress: dict[str, Any] = state["progress"]
    return progress


def _restore_engine(engine: AdaLoraEngine, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    prefix = "engine."
    found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    engine.load_state_dict({"meta": meta, "tensors": found})
    with torch.no_grad():
        for name, parameter in _extra(engine).items():
            parameter.copy_(tensors[name])


def newest_checkpoint(directory: Path) -> tuple[Path, list[str]]:
    """The newest whole checkpoint below, and a line for each newer one that is damaged.

    Raises:
        RunError: there is none.
    """
    notes = []
    for path in reversed(list_checkpoints(directory)):
        try:
            verify_manifest(path)
        except RunError as error:
            notes.append(f"{path.name} is passed over: {error}")
            continue
        return path, notes
    reasons = f" ({'; '.join(notes)})" if notes else ""
    raise RunError(f"there is no whole checkpoint in {directory}{reasons}; start the run without --resume")


def retain(directory: Path, limit: int, best: Path | None, newest: Path) -> None:
    """Delete all but the newest `limit` checkpoints; the best is never deleted.

    `newest` is the one just written. Those with a higher step are of a continuation that was given up, since the run
    went back to an older one: they go, so that they neither count nor are taken up.
    """
    paths = list_checkpoints(directory)
    given_up = [path for path in paths if step_of(path) > step_of(newest)]
    for path in [*given_up, *[path for path in paths if path not in given_up][:-limit]]:
        if path != best:
            remove(path)


def _extra(engine: AdaLoraEngine) -> dict[str, torch.nn.Parameter]:
    """Parameters of modules trained in full, by the names that a checkpoint gives them."""
    banks = len(engine.store.banks)
    return {f"extra.{number}": p for number, p in enumerate(engine.parameters()) if number >= banks}


def _random_tensors() -> dict[str, Tensor]:
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _random_values() -> dict[str, Any]:
    """States of Python's and NumPy's generators (some models draw from NumPy), as JSON values."""
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    numpy["state"] = {"key": numpy["state"]["key"].tolist(), "pos": int(numpy["state"]["pos"])}
    plain: dict[str, Any] = json.loads(json.dumps({"python": random.getstate(), "numpy": numpy}))
    return plain


def _restore_random(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"random.cuda.{number}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{number}"], number)
    version, numbers, gauss = values["python"]
    random.setstate((version, tuple(numbers), gauss))
    key = np.array(values["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state(values["numpy"] | {"state": {"key": key, "pos": values["numpy"]["state"]["pos"]}})
