"""`adapter.init_from`: a finished adapter as the start of a new run, with a budget and a schedule of its own.

The finished triplets take the first slots of their matrices, the slots left start as in any run. So the first step
starts from the finished function, and the rank is distributed anew; PEFT would carry the old pattern on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spectune.adapter.initialization import Triplets, start_from_triplets
from spectune.errors import AdapterError
from spectune.formats.adapter_config import scale
from spectune.formats.adapter_files import check_start
from spectune.formats.adapter_settings import AdapterSettings
from spectune.formats.adapter_tensors import split_entries
from spectune.formats.saved_adapter import SavedAdapter
from spectune.training.model import Adapted


def start_from_adapter(adapted: Adapted, location: str, base_digest: str, dtype: str) -> int:
    """Start the run's adapter from the finished one; returns the number of triplets taken over.

    Raises:
        AdapterError: damaged, of another base, or with weights that this run does not train.
        ConfigError: a matrix has more triplets than `adapter.init_r`.
    """
    store = adapted.engine.store
    path = check_start(location, adapted.engine.schedule.init_r)
    _check_same_base(path, base_digest, dtype)
    finished = SavedAdapter.read(path)
    entries, rest = split_entries(finished.tensors)
    triplets = {
        name: Triplets(kinds["E"].float().flatten(), kinds["A"].float(), kinds["B"].float().t())
        for name, kinds in entries.items()
    }
    widths = {matrix.name: (matrix.layer.in_features, matrix.layer.out_features) for matrix in store.matrices}
    for name, one in triplets.items():
        if name not in widths:
            raise AdapterError(f"{path} adapts {name}, which this run does not; let adapter.target_modules name it too")
        shape = (one.queries.shape[1], one.outputs.shape[1])
        if shape != widths[name]:
            raise AdapterError(f"{path} is of another base: {name} is {shape} there and {widths[name]} here")
    _start_others(path, adapted, rest)
    start_from_triplets(store, triplets, scale(finished.config))
    return sum(len(one.values) for one in triplets.values())


@torch.no_grad()
def _start_others(path: Path, adapted: Adapted, rest: dict[str, Tensor]) -> None:
    """What is trained beside the triplets: modules in full, biases, rows of token embeddings."""
    own = _trained_beside(adapted.model, adapted.engine.store.adapter_name)
    for name, tensor in rest.items():
        if name not in own or own[name].shape != tensor.shape:
            raise AdapterError(f"{path} also holds {name}, which this run does not train so; {_option_of(name)}")
        own[name].copy_(tensor)


def _trained_beside(model: Any, adapter_name: str) -> dict[str, Tensor]:
    """Parameters by the names under which PEFT saves them, which are without the adapter's."""
    named = model.get_base_model().named_parameters(remove_duplicate=False)
    return {
        name.replace(f".modules_to_save.{adapter_name}.", ".").removesuffix(f".{adapter_name}"): parameter
        for name, parameter in named
        if parameter.requires_grad
    }


def _option_of(name: str) -> str:
    """What makes a run train an entry of this name."""
    if name.endswith("trainable_tokens_delta"):
        return "let adapter.trainable_token_indices name the same tokens"
    if name.endswith(".bias"):
        return "let adapter.bias be what it was there, or adapter.modules_to_save name its module"
    return "let adapter.modules_to_save name its module"


def _check_same_base(path: Path, digest: str, dtype: str) -> None:
    """For an adapter of ours, which names its base's hash; other precisions have other hashes."""
    settings = AdapterSettings.read(path)
    if settings.dtype == dtype and settings.base not in (None, digest):
        raise AdapterError(f"{path} was trained on a base with other weights; name that base, or another adapter")
