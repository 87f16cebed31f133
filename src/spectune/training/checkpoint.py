"""Checkpoints: the full-size training state, apart from the compact adapter that is shared.

Tensors in safetensors, the rest in JSON, nothing is pickled. A checkpoint exists when its manifest does; the manifest
also holds the fingerprint of the run that made it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
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
from spectune.launch import world_size
from spectune.manifest import verify_manifest, whole_directory
from spectune.training.directory import list_checkpoints, step_of
from spectune.training.parallel import ALONE, Processes

_TENSORS, _STATE = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of the model and its optimizer."""

    engine: AdaLoraEngine
    optimizer: torch.optim.Optimizer


@dataclass(frozen=True)
class RandomState:
    """States of all random generators of one process."""

    tensors: dict[str, Tensor]
    """Torch's, by device."""
    values: dict[str, Any]
    """Python's and NumPy's, as JSON values."""


def save_checkpoint(
    directory: Path,
    trained: Trained,
    progress: dict[str, Any],
    fingerprint: Mapping[str, Any],
    randoms: Sequence[RandomState] | None = None,
) -> None:
    """Write `directory` as a whole: engine, optimizer, random states, and `progress` (JSON values of the loop).

    Args:
        fingerprint: of the run, kept in the manifest.
        randoms: of each process, by rank; None for this one's alone.
    """
    own, *others = randoms or [random_state()]
    meta, tensors = _of_engine(trained.engine)
    moments, groups = optimizer_state(trained.optimizer)
    tensors |= moments | {f"random.{name}": tensor for name, tensor in own.tensors.items()}
    for rank, one in enumerate(others, start=1):
        tensors |= {f"process.{rank}.random.{name}": tensor for name, tensor in one.tensors.items()}
    state: dict[str, Any] = {"engine": meta, "optimizer": groups, "random": own.values, "progress": progress}
    if others:
        state["randoms"] = [one.values for one in others]
    _write(directory, state, tensors, fingerprint)


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
    return state["meta"], {f"engine.{name}": tensor for name, tensor in state["tensors"].items()}


def _write(
    directory: Path, state: Mapping[str, Any], tensors: Mapping[str, Tensor], fingerprint: Mapping[str, Any]
) -> None:
    # Serialised in memory: an adapter is small, and every byte then goes through one writer that flushes.
    content = save({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()})
    with whole_directory(directory, fingerprint=fingerprint) as partial:
        write_new(partial / _TENSORS, content)
        write_json(partial / _STATE, state)


def load_checkpoint(
    directory: Path, trained: Trained, *, weights_only: bool = False, processes: Processes = ALONE
) -> dict[str, Any]:
    """Restore a checkpoint and return its `progress`; everything is verified before anything is changed.

    Process 0 reads it and hands it to the others, which need not see the directory.

    Args:
        directory: a whole checkpoint.
        trained: freshly made engine and optimizer of the same run (or the run's own, past its freeze).
        weights_only: the engine and the modules trained in full; optimizer and random states stay as they are.

    Raises:
        RunError: damaged, or unreadable.
        AdapterError: of another run.
    """
    state, tensors = processes.first(lambda: _read(directory))
    _restore_engine(trained.engine, state["engine"], tensors)
    if not weights_only:
        restore_optimizer(trained.optimizer, state["optimizer"], tensors)
        _restore_random(tensors, state, processes.rank)
    progress: dict[str, Any] = state["progress"]
    return progress


def _restore_engine(engine: AdaLoraEngine, meta: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    prefix = "engine."
    found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    engine.load_state_dict({"meta": meta, "tensors": found})


def _read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    verify_manifest(directory)
    return read_json(directory / _STATE), load_file(directory / _TENSORS)


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


def seed_all(seed: int) -> None:
    """Seed all random generators of this process."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> RandomState:
    """Of this process: torch's on the CPU and on its GPUs, Python's and NumPy's (some models draw from it)."""
    return RandomState(_random_tensors(), _random_values())


def _random_tensors() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    return states | {f"cuda.{i}": torch.cuda.get_rng_state(number) for i, number in enumerate(_gpus())}


def _gpus() -> list[int]:
    """Numbers of the GPUs that this process may use: its own one where others have theirs."""
    if not torch.cuda.is_available():
        return []
    return list(range(torch.cuda.device_count())) if world_size() == 1 else [torch.cuda.current_device()]


def _random_values() -> dict[str, Any]:
    numpy: dict[str, Any] = dict(np.random.get_state(legacy=False))
    numpy["state"] = {"key": numpy["state"]["key"].tolist(), "pos": int(numpy["state"]["pos"])}
    plain: dict[str, Any] = json.loads(json.dumps({"python": random.getstate(), "numpy": numpy}))
    return plain


def _restore_random(tensors: dict[str, Tensor], state: dict[str, Any], rank: int) -> None:
    if rank > len(state.get("randoms", [])):  # made by fewer processes; this one is seeded anew
        return
    prefix, values = (
        ("random", state["random"]) if rank == 0 else (f"process.{rank}.random", state["randoms"][rank - 1])
    )
    torch.set_rng_state(tensors[f"{prefix}.cpu"])
    for i, number in enumerate(_gpus()):
        if f"{prefix}.cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"{prefix}.cuda.{i}"], number)
    version, numbers, gauss = values["python"]
    random.setstate((version, tuple(numbers), gauss))
    key = np.array(values["numpy"]["state"]["key"], dtype=np.uint32)
    np.random.set_state(values["numpy"] | {"state": {"key": key, "pos": values["numpy"]["state"]["pos"]}})
