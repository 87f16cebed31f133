"""The weights of a saved adapter, checked before a model is touched: shapes, finiteness, and whether they fit the base.

For adapters with a manifest the hashes have said all this already; those that plain PEFT wrote carry none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from spectune.errors import AdapterError, first_line
from spectune.formats.adapter_config import kept_ranks

PREFIX = "base_model.model."
_ENTRY = re.compile(r"(?P<matrix>.+)\.lora_(?P<kind>[AEB])")
_TOKENS = ".trainable_tokens_"
_WRAPPED_BIAS = ".base_layer.bias"
_ROUNDING = 2.0**-7
_REMEDY = "copy or download the adapter again"
Entries = dict[str, dict[str, Tensor]]


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU.

    Raises:
        AdapterError: it cannot be read, or holds a number that is not finite.
    """
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise AdapterError(f"{path} cannot be read ({first_line(error)}); {_REMEDY}") from None
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise AdapterError(f"{path} holds numbers that are not finite, in {name}; {_REMEDY}")
    return tensors


def split_entries(tensors: Mapping[str, Tensor]) -> tuple[Entries, dict[str, Tensor]]:
    """Triplets as matrix → kind (A, E, B) → tensor, and what else the file holds, both without PEFT's prefix."""
    entries: Entries = {}
    rest: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        match = _ENTRY.fullmatch(name)
        if match:
            entries.setdefault(match["matrix"], {})[match["kind"]] = tensor
        else:
            rest[name] = tensor
    return entries, rest


def unwrapped(name: str) -> str:
    """The name in the base of a tensor beside the triplets: PEFT saves an adapted matrix's bias inside its wrapper."""
    matrix = name.removesuffix(_WRAPPED_BIAS)
    return name if matrix == name else f"{matrix}.bias"


def check_tensors(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Compare the weights with the configuration beside them.

    Args:
        path: the weights' file, for the message.
        config: checked by `adapter_config.check_config`.
        tensors: what the file holds.

    Raises:
        AdapterError: a matrix with parts that do not fit together, or of another rank than the configuration says.
    """
    entries, _ = split_entries(tensors)
    if not entries:
        raise AdapterError(f"{path} holds no weights of an AdaLoRA adapter")
    ranks = kept_ranks(config) or dict.fromkeys(entries, config["init_r"])
    for name in ranks.keys() ^ entries.keys():
        lacking = "has no weights" if name in ranks else "is not in rank_pattern of the configuration"
        raise AdapterError(f"{path} is damaged: {name} {lacking}; {_REMEDY}")
    for name, kinds in entries.items():
        if kinds.keys() != {"A", "E", "B"} or any(part.ndim != 2 for part in kinds.values()):
            raise AdapterError(f"{path} is damaged: {name} has not exactly lora_A, lora_B and lora_E; {_REMEDY}")
        found = {len(kinds["A"]), len(kinds["E"]), kinds["B"].shape[1]}
        if found != {ranks[name]} or kinds["E"].shape[1] != 1:
            raise AdapterError(f"{path} is damaged: {name} is not of rank {ranks[name]} in all its parts; {_REMEDY}")


def check_fit(path: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], base: nn.Module) -> None:
    """Compare the weights with the base model they are to be put on.

    Raises:
        AdapterError: a matrix that the base does not have or has in another size, or a module trained in full that
            does not fit.
    """
    entries, rest = split_entries(tensors)
    modules, own = dict(base.named_modules()), dict(base.named_parameters(remove_duplicate=False))
    for name, kinds in entries.items():
        module: Any = modules.get(name)
        width = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if module is not None and type(module).__name__ == "Conv1D":
            width = tuple(module.weight.shape)
        here = (kinds["A"].shape[1], kinds["B"].shape[0])
        if width != here:
            there = f"has it as {width[0]} → {width[1]}" if None not in width else "has no such linear map"
            raise AdapterError(f"{path} is of another base: {name} maps {here[0]} → {here[1]}, and the base {there}")
    for name, tensor in rest.items():
        if _TOKENS in name:  # rows of an embedding; PEFT's configuration says which
            continue
        place = unwrapped(name)
        if place not in own or own[place].shape != tensor.shape:
            raise AdapterError(f"{path} is of another base: it holds {name}, which the base has not, or not so large")
    for entry in config.get("modules_to_save") or []:
        for name in own:
            place = name.rsplit(".", 1)[0]
            if (place == entry or place.endswith(f".{entry}")) and name not in rest:
                raise AdapterError(f"{path} is damaged: it lacks {name}, which modules_to_save names; {_REMEDY}")


def check_loaded(path: Path, tensors: Mapping[str, Tensor], model: nn.Module, adapter: str) -> None:
    """Whether PEFT put every tensor of the file in its place, and had a tensor for every place of the adapter.

    Raises:
        AdapterError: the modules that the configuration targets are not those that the file has weights for.
    """
    own = f".{adapter}"
    found = {
        name.removesuffix(own): parameter
        for name, parameter in model.named_parameters()
        if name.endswith(own) and _ENTRY.fullmatch(name.removesuffix(own))
    }
    wanted = {name: tensor for name, tensor in tensors.items() if _ENTRY.fullmatch(name)}
    for name in found.keys() ^ wanted.keys():
        raise AdapterError(
            f"{path} does not fit its configuration: target_modules and the weights differ in {name}; {_REMEDY}"
        )
    for name, tensor in wanted.items():
        # on a base in bfloat16, PEFT takes them up in that precision before it casts them
        if not torch.allclose(found[name].detach().cpu().float(), tensor.float(), rtol=_ROUNDING):
            raise AdapterError(f"{path}: PEFT did not take up {name} as it is; {_REMEDY}")
