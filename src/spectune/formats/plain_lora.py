"""An AdaLoRA adapter as a plain LoRA adapter with the same outputs, which every user of PEFT can load and train on.

ΔW = s · P Λ Q with s = lora_alpha / (init_r + 1e-5) becomes ΔW = B A with B = P, A = s·Λ·Q and a LoRA scale of 1
(alpha = rank, matrix by matrix). Whatever ignores the patterns still finds alpha = r. PEFT's own `save_as_lora` knows
no AdaLoRA layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor

from spectune.errors import AdapterError
from spectune.formats.adapter_config import scale
from spectune.formats.adapter_files import WEIGHTS
from spectune.formats.adapter_tensors import PREFIX, split_entries, unwrapped
from spectune.formats.adapter_writing import in_order, readable
from spectune.formats.saved_adapter import SavedAdapter

_KEPT = (
    "task_type",
    "base_model_name_or_path",
    "revision",
    "lora_dropout",
    "fan_in_fan_out",
    "bias",
    "modules_to_save",
    "trainable_token_indices",
    "ensure_weight_tying",
)
"""Options that mean the same in both kinds of adapter."""


def write_plain_lora(source: Path, directory: Path) -> None:
    """Write the adapter in `source` as a LoRA adapter into `directory`, which exists: configuration and weights.

    Raises:
        AdapterError: `source` is damaged, or has no triplet with λ ≠ 0.
    """
    adapter = SavedAdapter.read(source)
    save_plain_lora(directory, *plain_lora(adapter.config, adapter.tensors))


def save_plain_lora(directory: Path, config: LoraConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write what `plain_lora` returned, as PEFT itself would."""
    config.save_pretrained(str(directory))
    in_order(directory)
    save_file(dict(tensors), directory / WEIGHTS, metadata={"format": "pt"})
    readable(directory)


def plain_lora(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The same adapter in the form of LoRA.

    Args:
        config: `adapter_config.json` of an AdaLoRA adapter, checked (`adapter_config.check_config`).
        tensors: its weights by their names in the file, checked (`adapter_tensors.check_tensors`).

    Returns:
        PEFT's configuration, and tensors by the names that PEFT gives them in a file. Triplets with λ = 0 are left
        out, and matrices without triplets, too; all else that the adapter holds stays.

    Raises:
        AdapterError: no triplet with λ ≠ 0.
    """
    entries, rest = split_entries(tensors)
    factors = {name: _factors(kinds, scale(config)) for name, kinds in entries.items()}
    ranks = {name: len(a) for name, (a, _) in factors.items() if len(a)}
    if not ranks:
        raise AdapterError("the adapter changes no matrix (every λ is 0), so there is no LoRA adapter to be made of it")
    left_out = entries.keys() - ranks.keys()
    saved = {PREFIX + _place(name, left_out): tensor.contiguous() for name, tensor in rest.items()}
    for name in ranks:
        a, b = factors[name]
        saved |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
    return _lora_config(config, ranks, left_out), saved


def _factors(kinds: Mapping[str, Tensor], s: float) -> tuple[Tensor, Tensor]:
    """A = s·Λ·Q, (r, in), and B = P, (out, r), in float32, without the triplets whose λ is 0.

    Args:
        kinds: A = Q (r, in), E = λ (r, 1), B = P (out, r) of AdaLoRA.
        s: its scale.
    """
    alive = kinds["E"].flatten() != 0
    values, queries = kinds["E"][alive].double(), kinds["A"][alive].double()
    return (s * values * queries).float().contiguous(), kinds["B"][:, alive].to(torch.float32).contiguous()


def _lora_config(config: Mapping[str, Any], ranks: Mapping[str, int], left_out: Collection[str]) -> LoraConfig:
    kept = {key: config[key] for key in _KEPT if config.get(key) is not None}
    if kept.get("bias") == "lora_only" and left_out:
        kept["bias"] = "all"  # else PEFT would lose the biases of the matrices that are left out when it saves again
    pattern = {_exact(name, ranks.keys() | left_out): rank for name, rank in ranks.items()}
    return LoraConfig(
        **kept,
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),
        target_modules=sorted(ranks),
        exclude_modules=sorted(name for name in left_out if _shadowed(name, ranks)) or None,
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        inference_mode=True,
    )


def _exact(name: str, others: Collection[str]) -> str:
    """A key of PEFT's patterns, which also match as the end of a longer name: anchored where there is one."""
    return f"^{name}" if any(other.endswith(f".{name}") for other in others) else name


def _shadowed(name: str, ranks: Collection[str]) -> bool:
    """Whether PEFT, which compares ends of names, would adapt `name` along with a matrix of `ranks`."""
    return any(name.endswith(f".{other}") for other in ranks)


def _place(name: str, left_out: Collection[str]) -> str:
    """The name of a tensor beside the triplets; a matrix that is left out has no wrapper around its bias."""
    plain = unwrapped(name)
    return plain if plain.removesuffix(".bias") in left_out else name
