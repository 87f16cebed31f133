"""The budgets of `spectune export --sweep`: what each keeps, and the bytes it comes to. No model is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from spectune.budget import Budget
from spectune.errors import ConfigError
from spectune.exporting import Form, Limit, keep_under, smaller

if TYPE_CHECKING:
    from torch import Tensor

    from spectune.evaluation.sweep import Candidate
    from spectune.formats.saved_adapter import SavedAdapter


def candidates(adapter: SavedAdapter, limits: Sequence[Limit] | None, form: Form) -> tuple[list[Candidate], str]:
    """The adapter under each limit, and what its triplets were ranked by. No model is loaded.

    Args:
        adapter: whose triplets are chosen from.
        limits: target ranks or budgets; None: the whole adapter, then a half to a sixteenth of its triplets.
        form: `lora` or `adalora`, whose files' sizes are told.

    Raises:
        ConfigError: a limit that cannot be met, or a form without a size of its own.
    """
    import torch

    from spectune.evaluation.sweep import Candidate
    from spectune.formats.triplet_scores import triplet_scores

    if form == "merged":
        raise ConfigError("a merged model has one size whatever the budget; sweep with the format lora or adalora")
    everything = {name: torch.ones(len(kinds["E"]), dtype=torch.bool) for name, kinds in adapter.entries.items()}
    asked = _halving(adapter) if limits is None else {_named(limit): limit for limit in limits}
    found = []
    for name, limit in asked.items():
        try:
            keep, _ = keep_under(adapter, limit, lora=form == "lora")
        except ConfigError:
            if limits is None:  # nothing is left to halve
                break
            raise
        size = _size(form, *smaller(adapter, keep))
        found.append(Candidate(limit=name, keep=keep or everything, weights_bytes=size))
    return found, triplet_scores(adapter).kind


def _halving(adapter: SavedAdapter) -> dict[str, Limit | None]:
    whole = sum(tensor.numel() for tensor in adapter.tensors.values())
    triplets = sum(tensor.numel() for kinds in adapter.entries.values() for tensor in kinds.values())
    beside = whole - triplets
    parts = {f"1/{part}": Budget(beside + triplets // part, "parameters") for part in (2, 4, 8, 16)}
    return {"whole": None, **parts}


def _named(limit: Limit) -> str:
    if not isinstance(limit, Budget):
        return f"rank {limit:g}"
    return f"{limit.amount / 1000:g} kB" if limit.unit == "bytes" else f"{limit.amount:,} parameters"


def _size(form: Form, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the file of weights."""
    from safetensors.torch import save

    from spectune.formats.plain_lora import plain_lora

    written = plain_lora(config, tensors)[1] if form == "lora" else tensors
    return len(save(dict(written), metadata={"format": "pt"}))
