"""What makes a run this run and no other; a checkpoint is only taken up by the run that made it.

Where a file lies does not matter, what is in it does: rows count as token ids, base weights as their bytes.
"""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from spectune.adapter.schedule import RankSchedule
from spectune.config import RunConfig
from spectune.data.tokenization import TokenizedSet
from spectune.errors import RunError
from spectune.formats.digests import tokenizer_digest
from spectune.launch import world_size
from spectune.training.bfloat16 import device_name

_SHAPING = ("spectune", "torch", "transformers", "peft", "numpy")  # a new version of these may round differently
_PLACES = {"model_name_or_path", "revision", "trust_remote_code"}
_FILES = {"train_file", "validation_file", "test_file", "dataset_name", "dataset_config_name", "dataset_revision"}
# Settings that a resumed run may have otherwise: places, what is only written down, what only comes later.
_FREE: dict[str, set[str]] = {
    "model": _PLACES,
    "data": {*_FILES, "max_test_samples", "cache_tokens", "cache_dir"},
    "adapter": {"init_from"},
    "train": {"output_dir", "logging_steps", "save_steps", "save_total_limit", "report_to"},
    "evaluation": {
        "eval_strategy",
        "eval_steps",
        "eval_on_start",
        "load_best_model_at_end",
        "early_stopping_patience",
        "per_device_eval_batch_size",
    },
}
LOCAL = {
    *(f"model.{name}" for name in ("model_name_or_path", "trust_remote_code")),
    *(f"data.{name}" for name in ("train_file", "validation_file", "test_file", "dataset_name", "cache_dir")),
    *("adapter.init_from", "train.output_dir", "environment.machine"),
}
"""Flat names of what the processes of one run may have otherwise: places on their machines, and the machines."""
_MACHINE, _PROCESSES, _FSDP = "environment.machine", "environment.processes", "settings.train.fsdp"
_LENGTH = ("settings.train.max_steps", "settings.train.num_train_epochs")  # what counts is the schedule
_SPOKEN = {
    "dtype": "model.dtype",
    "data.train": "the training data or its tokenization (SHA-256)",
    "data.validation": "the validation data or its tokenization (SHA-256)",
    "tokenizer": "the tokenizer (SHA-256)",
    "base": "the base model's weights (SHA-256)",
}
_REMEDIES = {
    "environment.threads": "set OMP_NUM_THREADS={before} to continue bit for bit",
}


def run_fingerprint(
    config: RunConfig,
    schedule: RankSchedule,
    sets: Mapping[str, TokenizedSet],
    tokenizer: PreTrainedTokenizerBase,
    base: str,
    dtype: str,
    device: torch.device,
) -> dict[str, Any]:
    """Settings, schedule, data, tokenizer, base weights and environment of a run, as JSON values.

    Args:
        sets: tokenised rows by split; of a streamed one the first rows, what follows is checked by its loader.
        base: `weights_digest` of the base model.
        dtype: precision that the base is held in.
    """
    place = environment(device)
    if config.data.streaming:
        place["datasets"] = metadata.version("datasets")  # its shuffle buffer decides the order of rows
    content = {
        "settings": settings_of(config),
        "schedule": asdict(schedule),
        "dtype": dtype,
        "data": {name: sets[name].fingerprint for name in ("train", "validation") if name in sets},
        "tokenizer": tokenizer_digest(tokenizer),
        "base": base,
        "environment": place,
    }
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return plain


def settings_of(config: RunConfig) -> dict[str, dict[str, Any]]:
    """The settings that shape a run."""
    return {
        name: {key: value for key, value in section.items() if key not in _FREE.get(name, ())}
        for name, section in config.model_dump(mode="json", exclude={"preset"}).items()  # its values are in these
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, threads, processes and machine: bit for bit is promised where all are the same."""
    versions = {name: metadata.version(name) for name in _SHAPING}
    python = ".".join(platform.python_version_tuple()[:2])
    threads = torch.get_num_threads()
    return {
        "python": python,
        **versions,
        "threads": threads,
        "processes": world_size(),
        "machine": f"{device.type}: {device_name(device)}",
    }


def check_fingerprint(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Compare a checkpoint's fingerprint with this run's.

    Returns:
        A line where the machine, the number of processes or `train.fsdp` is another: the run goes on, but not bit for
        bit.

    Raises:
        RunError: another run; names the first difference.
    """
    before, now = flatten(saved), flatten(here)
    others = before.get(_PROCESSES) != now.get(_PROCESSES)
    passed = {_MACHINE, _PROCESSES, _FSDP, *(_LENGTH if others else ())}
    for key in dict.fromkeys([*now, *before]):
        if before.get(key) != now.get(key) and key not in passed:
            raise RunError(_refusal(key, before.get(key), now.get(key)))
    notes = []
    if others:
        notes.append(
            f"the checkpoint was made by {before.get(_PROCESSES)} processes, and {now.get(_PROCESSES)} go on from the "
            "same row: a step takes other rows, so not bit for bit"
        )
    if bool(before.get(_FSDP)) != now.get(_FSDP):
        notes.append(
            f"train.fsdp is {str(now.get(_FSDP)).lower()} now and was not when the checkpoint was made: some sums over "
            "layers are rounded in another order, so not bit for bit"
        )
    if before.get(_MACHINE) != now.get(_MACHINE):
        notes.append(
            f"the checkpoint was made on another machine ({before.get(_MACHINE)}): the run goes on, but not bit for bit"
        )
    return notes


def check_steps(saved: Mapping[str, Any], schedule: RankSchedule) -> None:
    """Raises RunError where another number of processes makes the run longer or shorter than its schedule."""
    before, steps = processes_of(saved), saved.get("schedule", {}).get("total_step")
    if before != world_size() and steps != schedule.total_step:
        raise RunError(
            f"the checkpoint was made by {before} processes, and with {world_size()} the run would have "
            f"{schedule.total_step:,} steps instead of {steps:,}; give train.max_steps={steps}, or start {before}"
        )


def processes_of(saved: Mapping[str, Any]) -> int:
    """The number of processes that made a checkpoint."""
    number: int = saved.get("environment", {}).get("processes", 1)
    return number


def _refusal(key: str, before: Any, now: Any) -> str:
    name = _SPOKEN.get(key, key.removeprefix("settings.").removeprefix("environment."))
    remedy = "set it back"
    if key.startswith("environment."):
        install = f"install {name}=={before}" if name != "python" else f"use Python {before}"
        remedy = _REMEDIES.get(key, install).format(before=before)
    return (
        f"the checkpoint is of another run: {name} was {_short(before)} and is {_short(now)} now; {remedy}, "
        "or start anew with --overwrite"
    )


def _short(value: Any) -> str:
    """A hash by its first digits."""
    text = repr(value)
    return f"{text[:13]}…'" if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) else text


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"settings": {"adapter": {"init_r": 4}}}` → `{"settings.adapter.init_r": 4}`; at most three levels."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and name.count(".") < 2:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
