"""`adapter_config.json` as it comes from anybody: what of it an evaluation needs, checked. Imports no torch.

PEFT takes a mistyped or missing key for its default, in silence. Here the keys that shape the output must be there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectune.errors import AdapterError

SHAPING = ("base_model_name_or_path", "init_r", "lora_alpha", "peft_type", "target_modules", "target_r", "task_type")
_REMEDY = "copy or download the adapter again"
_MATRIX = re.compile(r"(?P<matrix>.+)\.lora_E(\.[^.]+)?")
# Options under which PEFT would import or run more than itself.
_CODE = ("megatron_config", "corda_config", "eva_config", "loftq_config", "arrow_config")


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration that is not AdaLoRA's for an encoder-decoder model, or is damaged.

    Args:
        path: the file, for the message.
        config: its content.

    Raises:
        AdapterError: one line that says what is wrong.
    """
    kind = config.get("peft_type")
    if kind != "ADALORA":
        raise AdapterError(f"{path} is of a {kind} adapter; spectune loads AdaLoRA adapters, PEFT loads the others")
    if config.get("task_type") not in (None, "SEQ_2_SEQ_LM"):
        raise AdapterError(
            f"{path} is of an adapter for {config['task_type']} models; spectune loads those of encoder-decoder "
            "models (SEQ_2_SEQ_LM)"
        )
    for name in SHAPING:
        if name not in config:
            raise AdapterError(f"{path} is damaged: it has no {name}; {_REMEDY}")
    for name in _CODE:
        if config.get(name):
            raise AdapterError(f"{path} sets {name}, with which PEFT runs other code; spectune does not load it")
    _check_values(path, config)
    _check_pattern(path, config)


def _check_values(path: Path, config: Mapping[str, Any]) -> None:
    rank, target, alpha = config["init_r"], config["target_r"], config["lora_alpha"]
    targets, base = config["target_modules"], config["base_model_name_or_path"]
    listed = isinstance(targets, list) and bool(targets) and all(isinstance(name, str) and name for name in targets)
    right = {
        "init_r": _is_number(rank, whole=True) and rank >= 1,
        "target_r": _is_number(target, whole=True) and target >= 1,
        "lora_alpha": _is_number(alpha) and 0 < alpha < 1e6,
        "target_modules": listed or (isinstance(targets, str) and bool(targets)),
        "base_model_name_or_path": base is None or (isinstance(base, str) and bool(base)),
    }
    for name, fits in right.items():
        if not fits:
            raise AdapterError(f"{path} is damaged: {name} is {_short(config[name])}; {_REMEDY}")


def _check_pattern(path: Path, config: Mapping[str, Any]) -> None:
    pattern, slots = config.get("rank_pattern"), config["init_r"]
    if not pattern:
        return
    well_formed = isinstance(pattern, dict) and all(
        _MATRIX.fullmatch(name)
        and isinstance(kept, list)
        and len(kept) == slots
        and all(isinstance(one, bool) for one in kept)
        for name, kept in pattern.items()
    )
    if not well_formed:
        raise AdapterError(f"{path} is damaged: rank_pattern has not {slots} (init_r) flags for each matrix; {_REMEDY}")


def kept_slots(config: Mapping[str, Any]) -> dict[str, list[int]] | None:
    """Matrix → numbers (0 to init_r − 1) of the triplets that the file holds, in its order; None where all are kept."""
    pattern = config.get("rank_pattern") or {}
    matches = {name: _MATRIX.fullmatch(name) for name in pattern}
    kept = {
        match["matrix"]: [slot for slot, alive in enumerate(pattern[name]) if alive]
        for name, match in matches.items()
        if match
    }
    return kept or None


def kept_ranks(config: Mapping[str, Any]) -> dict[str, int] | None:
    """Matrix → triplets that the file holds, from a checked configuration; None where every one of init_r is kept."""
    kept = kept_slots(config)
    return None if kept is None else {name: len(slots) for name, slots in kept.items()}


def scale(config: Mapping[str, Any]) -> float:
    """s of ΔW = s · P Λ Q, from a checked configuration. PEFT divides by init_r + 1e-5, pruned or not."""
    return float(config["lora_alpha"]) / (float(config["init_r"]) + 1e-5)


def _is_number(value: Any, *, whole: bool = False) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else f"{text[:39]}…"
