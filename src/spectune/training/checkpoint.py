"""Checkpoints: the full-size training state, apart from the compact adapter that is shared.

Tensors in safetensors, the rest in JSON, nothing is pickled. A checkpoint exists when its manifest does.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spectune.adapter.engine import AdaLoraEngine
from spectune.errors import RunError
from spectune.files import read_json, verify_manifest, whole_directory, write_json

_TENSORS, _STATE = "state.safetensors", "state.json"
_NAME = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds of the model and its optimizer."""

    engine: AdaLoraEngine
    optimizer: torch.optim.Optimizer


def save_checkpoint(directory: Path, trained: Trained, progress: dict[str, Any]) -> None:
    """Write `directory` as a whole: engine, optimizer, random states, and `progress` (JSON values of the loop)."""
    engine = trained.engine.state_dict()
    moments, groups = _optimizer_state(trained.optimizer)
    extra = {f"extra.{i}": p.detach() for i, p in enumerate(trained.engine.parameters()) if i >= _banks(trained.engine)}
    tensors = {f"engine.{name}": tensor for name, tensor in engine["tensors"].items()} | moments | extra
    tensors |= _random_tensors()
    with whole_directory(directory) as partial:
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}, partial / _TENSORS
        )
        state = {"engine": engine["meta"], "optimizer": groups, "python_random": _plain(random.getstate())}
        write_json(partial / _STATE, state | {"progress": progress})


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
    prefix = "engine."
    found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    trained.engine.load_state_dict({"meta": state["engine"], "tensors": found})
    with torch.no_grad():
        for number, parameter in enumerate(trained.engine.parameters()):
            if f"extra.{number}" in tensors:
                parameter.copy_(tensors[f"extra.{number}"])
    if not weights_only:
        _restore_optimizer(trained.optimizer, state["optimizer"], tensors)
        _restore_random(tensors, state["python_random"])
    progress: dict[str, Any] = state["progress"]
    return progress


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
    raise RunError(f"there is no whole checkpoint in {directory}; start the run without --resume")


def list_checkpoints(directory: Path) -> list[Path]:
    """Directories named step-N with a manifest, by N."""
    found = [
        path for path in directory.glob("step-*") if _NAME.fullmatch(path.name) and (path / "manifest.json").is_file()
    ]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def retain(directory: Path, limit: int, best: Path | None) -> None:
    """Delete all but the newest `limit` checkpoints; the best is never deleted."""
    for path in list_checkpoints(directory)[:-limit]:
        if path != best:
            shutil.rmtree(path)


def _banks(engine: AdaLoraEngine) -> int:
    return len(engine.store.banks)


def _optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    saved = optimizer.state_dict()
    tensors, scalars = {}, {}
    for number, entries in saved["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = value
            else:
                scalars[f"{number}.{key}"] = value
    return tensors, {"groups": saved["param_groups"], "scalars": scalars}


def _restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], tensors: dict[str, Tensor]) -> None:
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


def _random_tensors() -> dict[str, Tensor]:
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"random.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def _restore_random(tensors: dict[str, Tensor], python_random: Any) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"random.cuda.{number}" in tensors:
            torch.cuda.set_rng_state(tensors[f"random.cuda.{number}"], number)
    version, numbers, gauss = python_random
    random.setstate((version, tuple(numbers), gauss))


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))
