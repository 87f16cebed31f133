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
    _start_modules(path, adapted.model, rest)
    start_from_triplets(store, triplets, scale(finished.config))
    return sum(len(one.values) for one in triplets.values())


@torch.no_grad()
def _start_modules(path: Path, model: Any, rest: dict[str, Tensor]) -> None:
    """Modules that were trained in full."""
    own: dict[str, Tensor] = {}
    for place, module in model.get_base_model().named_modules():
        for copy in getattr(module, "modules_to_save", {}).values():
            own |= {f"{place}.{name}": parameter for name, parameter in copy.named_parameters()}
    for name, tensor in rest.items():
        if name not in own or own[name].shape != tensor.shape:
            raise AdapterError(f"{path} also holds {name}; let adapter.modules_to_save name its module")
        own[name].copy_(tensor)


def _check_same_base(path: Path, digest: str, dtype: str) -> None:
    """For an adapter of ours, which names its base's hash; other precisions have other hashes."""
    settings = AdapterSettings.read(path)
    if settings.dtype == dtype and settings.base not in (None, digest):
        raise AdapterError(f"{path} was trained on a base with other weights; name that base, or another adapter")
