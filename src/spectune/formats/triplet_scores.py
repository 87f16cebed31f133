"""What each triplet of a saved adapter is worth: the run's own scores, or, where there are none, its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from spectune.errors import AdapterError, first_line
from spectune.formats.adapter_config import kept_slots, scale
from spectune.formats.adapter_files import IMPORTANCE
from spectune.formats.saved_adapter import SavedAdapter


@dataclass(frozen=True)
class TripletScores:
    """Scores of the triplets in a file of weights."""

    of: Mapping[str, Tensor]
    """Matrix → (r,), in the file's order."""
    kind: Literal["importance", "size"]
    """`importance`: of the run's last allocation. `size`: s·|λ|·‖P‖·‖Q‖, the Frobenius norm of the triplet."""


def triplet_scores(adapter: SavedAdapter) -> TripletScores:
    """The scores kept beside an adapter; sizes for one that plain PEFT made, or whose run ended before its freeze.

    Raises:
        AdapterError: kept scores that cannot be read or belong to another adapter.
    """
    path, config, entries = adapter.directory / IMPORTANCE, adapter.config, adapter.entries
    kept = _read(path) if path.is_file() else {}
    if not kept:
        s = scale(config)
        return TripletScores({name: _sizes(entries[name], s) for name in sorted(entries)}, "size")
    slots = kept_slots(config) or {name: list(range(config["init_r"])) for name in entries}
    for name in entries:
        if name not in kept or kept[name].shape != (config["init_r"],):
            raise AdapterError(f"{path} does not belong to this adapter: it has no scores of {name}; remove it")
    return TripletScores({name: kept[name].double()[slots[name]] for name in sorted(entries)}, "importance")


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise AdapterError(f"{path} cannot be read ({first_line(error)}); remove it") from None


def _sizes(kinds: Mapping[str, Tensor], s: float) -> Tensor:
    """‖s · p λ q‖_F of each triplet, (r,) float64, from Q (r, in), λ (r, 1) and P (out, r)."""
    q, e, p = (kinds[kind].double() for kind in "AEB")
    sizes: Tensor = s * e.flatten().abs() * p.norm(dim=0) * q.norm(dim=1)
    return sizes
