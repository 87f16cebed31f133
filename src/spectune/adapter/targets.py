"""Which matrices to adapt, found from the structure of the model.

PEFT's tables know three of some twenty encoder-decoder types and miss the gated feed-forward of FLAN-T5. Here a
target is any linear map inside a repeated block of the encoder or the decoder that reads or writes text, whose weight
is not tied to another and which is no router and no embedding. Works on meta devices: no weights are read.

Towers for other senses (the vision tower in T5Gemma 2's encoder) never see a text: they are adapted only where
`target_modules` names them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any, cast

from torch import nn

from spectune.adapter.roles import TargetRole, role_of, tower_of
from spectune.errors import ConfigError

__all__ = ["TargetRole", "default_targets", "resolve_targets", "role_of"]

_ROUTERS = ("router", "classifier", "gate")  # a gate that is a module of its own; gate_proj is another name


def default_targets(model: nn.Module) -> list[str]:
    """All attention and feed-forward matrices of an encoder-decoder model, bare or in a PeftModel.

    Returns:
        Module names as in the base model's `named_modules()`, in that order.

    Raises:
        ConfigError: nothing to adapt was found.
    """
    if hasattr(model, "peft_config") and hasattr(model, "get_base_model"):  # PEFT's; its adapted layers hold the base's
        model = cast(Any, model).get_base_model()
    tied, stacks = _tied(model), text_stacks(model)
    names = [
        name.removesuffix(".base_layer")
        for name, module in model.named_modules()
        if is_linear(module)
        and _in_repeated_block(model, name)
        and any(name.startswith(f"{stack}.") for stack in stacks)
        and not (tower_of(name) or _is_router(name) or "embed" in name.rsplit(".", 1)[-1] or name in tied)
    ]
    if not names:
        raise ConfigError(f"no linear layer inside repeated blocks in {type(model).__name__}; name target_modules")
    return names


def resolve_targets(
    model: nn.Module,
    target_modules: str | list[str],
    exclude: str | list[str] | None,
    layers: Sequence[int] | None = None,
) -> list[str]:
    """Turn the `target_modules` option into module names.

    `auto` takes `default_targets`, `attention` and `feed_forward` those with such a role, a list takes modules by
    name or by the end of their name (as PEFT), any other string is a regular expression over the whole name. A tower
    for another sense is meant only by an entry that says so (`vision_tower`, or `vision` in a regular expression).
    `layers` keeps those with a layer of these numbers, in either stack.

    Raises:
        ConfigError: an entry or a layer that matches nothing (with the nearest names), or nothing left after `exclude`.
    """
    if target_modules == "auto":
        names = default_targets(model)
    elif target_modules in ("attention", "feed_forward"):
        names = [name for name in default_targets(model) if target_modules in role_of(name).block]
    else:
        linear = [name for name, module in model.named_modules() if is_linear(module)]
        names = _select(target_modules, linear, "target_modules")
    if exclude:
        excluded = set(_select(exclude, names, "exclude_modules"))
        names = [name for name in names if name not in excluded]
    if layers is not None:
        names = _in_layers(names, layers)
    if not names:
        raise ConfigError("no matrix is left to adapt; change target_modules or exclude_modules")
    return names


def _in_layers(names: list[str], layers: Sequence[int]) -> list[str]:
    known = {layer for layer in (role_of(name).layer for name in names) if layer is not None}
    strange = sorted(set(layers) - known)
    if strange:
        raise ConfigError(f"layers_to_transform: no layer {strange[0]}; the layers are 0 to {max(known, default=0)}")
    return [name for name in names if role_of(name).layer in layers]


def _select(entries: str | list[str], names: list[str], option: str) -> list[str]:
    if isinstance(entries, str):
        try:
            chosen = [name for name in names if re.fullmatch(entries, name) and _is_meant(name, entries)]
        except re.error as error:
            raise ConfigError(f"{option} {entries!r} is not a regular expression: {error}") from error
        if not chosen:
            raise ConfigError(_no_match(f"{option} {entries!r}", entries, names))
        return chosen
    for entry in entries:
        if not any(_ends_with(name, entry) for name in names):
            raise ConfigError(_no_match(f"{option} entry {entry!r}", entry, names))
    return [name for name in names if any(_ends_with(name, entry) for entry in entries)]


def _ends_with(name: str, entry: str) -> bool:
    return (name == entry or name.endswith(f".{entry}")) and _is_meant(name, entry)


def _is_meant(name: str, entry: str) -> bool:
    """Whether an entry that matches a name may mean it: `q_proj` does not mean those of a vision tower."""
    tower = tower_of(name)
    return not tower or any(word in entry for word in tower.split("_") if word not in ("tower", "encoder", "model"))


def _no_match(what: str, entry: str, names: Iterable[str]) -> str:
    leaves = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
    nearest = difflib.get_close_matches(entry.rsplit(".", 1)[-1], leaves, n=3, cutoff=0.0)
    if entry == "all-linear":
        return f"{what} is PEFT's word; write auto, which takes all attention and feed-forward matrices"
    return f"{what} matches no linear layer; nearest: {', '.join(nearest)}"


def is_linear(module: nn.Module) -> bool:
    """nn.Linear, transformers' Conv1D, and the quantised classes, which all derive from or are named after Linear."""
    kind = type(module).__name__
    return isinstance(module, nn.Linear) or kind == "Conv1D" or kind.startswith("Linear")


def text_stacks(model: nn.Module) -> list[str]:
    """Names of the encoder and the decoder of texts: the model's own answer, else by their name."""
    answers = [getattr(model, question)() for question in ("get_encoder", "get_decoder") if hasattr(model, question)]
    stacks = {id(answer) for answer in answers if answer is not model}
    named = [(name, module) for name, module in model.named_modules() if name]
    if len(stacks) == 2:
        return [name for name, module in named if id(module) in stacks]
    return [name for name, _ in named if name.rsplit(".", 1)[-1] in ("encoder", "decoder")]


def _in_repeated_block(model: nn.Module, name: str) -> bool:
    parts = name.split(".")
    return any(
        part.isdigit() and isinstance(model.get_submodule(".".join(parts[:depth])), nn.ModuleList)
        for depth, part in enumerate(parts)
    )


def _is_router(name: str) -> bool:
    parts = name.lower().split(".")
    return "router" in parts or parts[-1] in _ROUTERS


def _tied(model: nn.Module) -> set[str]:
    """Names of the modules whose weight is the weight under another name, too: a merge would change both."""
    names: dict[int, set[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, nn.Embedding) or is_linear(module):
            names.setdefault(id(module.weight), set()).add(name)
    return {name for same in names.values() if len(same) > 1 for name in same}
