"""Presets of the run file: values under one name, for what the person leaves out. What is written always wins.

`preset: paper` is what the paper holds constant over its tasks (docs/paper.md has the sources). `fast` is the paper's
narrow start and early freeze, with cut triplets leaving memory at once; `best` starts wider than the defaults and
trains longer (docs/quality.md says what is measured of that).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeGuard, get_args

from pydantic import BaseModel

PresetName = Literal["paper", "fast", "best"]
Values = dict[str, dict[str, Any]]

PRESETS: dict[str, Values] = {
    "paper": {
        "adapter": {
            "init_r": 12,
            "target_r": 8,
            "tinit": 0.12,
            "tfinal": 0.49,
            "deltaT": "auto",
            "beta1": 0.85,
            "beta2": 0.85,
            "orth_reg_weight": 0.1,
            "lora_alpha": 32,
            "target_modules": "auto",
            "init": "random",
            "importance": "elementwise",
            "pruning": "revivable",
            "penalty_in_scores": True,
            "call_order": "paper",
        },
        "train": {"learning_rate": 5.0e-4, "per_device_train_batch_size": 32, "lr_scheduler_type": "linear"},
    },
    "fast": {
        "adapter": {"init_r": 12, "target_r": 8, "tfinal": 0.5, "init": "gradient", "pruning": "permanent"},
        "train": {"learning_rate": 2.0e-3},
        "evaluation": {"eval_on_start": False, "num_beams": 1},
    },
    "best": {
        "adapter": {"init_r": 64, "target_r": 8, "tfinal": 0.25, "init": "gradient", "pruning": "revivable"},
        "train": {"num_train_epochs": 10.0},
        "evaluation": {"num_beams": 4},
    },
}
"""Preset → section → key → value."""

PRESET_SECTIONS = ("adapter", "train", "evaluation")

RANK_PAIRS = {1: 2, 2: 4, 4: 6, 8: 12}
"""target_r → init_r in the paper's runs and for `fast`; other ranks start at half as much again."""
WIDEST = 8
"""init_r over target_r, for `best`."""

# A preset's key that says nothing, or contradicts, where the person has written one of these.
_GIVES_WAY: dict[str, tuple[str, ...]] = {
    "adapter.target_r": ("adapter.budget",),
    "adapter.init": ("adapter.init_from",),
    "train.max_steps": ("train.num_train_epochs",),
    "train.warmup_ratio": ("adapter.tinit",),
}


def names() -> tuple[str, ...]:
    """The presets' names."""
    return get_args(PresetName)


def with_preset(name: str, written: Mapping[str, Mapping[str, Any]]) -> Values:
    """The sections `written` by the person, with the preset's values where they say nothing.

    A preset's value gives way to a key that excludes it (`budget` to its target_r), and of init_r and target_r the one
    that is left out follows the other. Applied to its own result it changes nothing.
    """
    sections = {section: dict(entries) for section, entries in written.items()}
    for section, entries in _preset_for(name, written).items():
        for key, value in entries.items():
            if not _excluded(f"{section}.{key}", written):
                sections.setdefault(section, {}).setdefault(key, value)
    return sections


def filled_in(values: Any) -> Any:
    """`with_preset` for the values of a configuration, whose sections may be models: what was set in them is written.

    Values without a preset, and those that are no configuration, are handed back as they are.
    """
    name = values.get("preset") if isinstance(values, dict) else None
    if not isinstance(name, str) or name not in PRESETS:
        return values
    written = {section: values[section] for section in PRESET_SECTIONS if section in values}
    for section, entries in written.items():
        if isinstance(entries, BaseModel):
            written[section] = entries.model_dump(exclude_unset=True)
        elif not isinstance(entries, Mapping):
            return values
    return values | with_preset(name, written)


def in_this_run(name: str, sections: Mapping[str, Mapping[str, Any]]) -> tuple[Values, Values]:
    """The preset's values that a run with these settings has, and those that it has otherwise (its own values)."""
    same: Values = {}
    other: Values = {}
    for section, entries in PRESETS[name].items():
        for key, value in entries.items():
            here = sections[section][key]
            (same if here == value else other).setdefault(section, {})[key] = here
    return same, other


def _preset_for(name: str, written: Mapping[str, Mapping[str, Any]]) -> Values:
    """The preset, its ranks made to go with the one that the person has written."""
    preset = {section: dict(entries) for section, entries in PRESETS[name].items()}
    adapter = written.get("adapter", {})
    init, target = adapter.get("init_r"), adapter.get("target_r")
    if _is_rank(target) and "init_r" not in adapter:
        preset["adapter"]["init_r"] = _start_of(name, target)
    elif _is_rank(init) and "target_r" not in adapter:
        fitting = [rank for rank in range(1, init + 1) if _start_of(name, rank) <= init]
        preset["adapter"]["target_r"] = max(fitting, default=1)
    return preset


def _start_of(name: str, target: int) -> int:
    """init_r for a target_r."""
    return WIDEST * target if name == "best" else RANK_PAIRS.get(target, -(-3 * target // 2))


def _is_rank(value: Any) -> TypeGuard[int]:
    """Whether this can be reckoned with; what else is wrong with it is found when it is checked."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _excluded(key: str, written: Mapping[str, Mapping[str, Any]]) -> bool:
    rivals = [rival.split(".") for rival in _GIVES_WAY.get(key, ())]
    return any(written.get(section, {}).get(name) is not None for section, name in rivals)
