"""`spectune export --sweep`: one adapter under several budgets, by metrics and by the bytes each comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectune.budget import Budget
from spectune.data.prepare import load_evaluation_examples
from spectune.errors import ConfigError
from spectune.export_checks import Form, Limit, check_form, check_limit
from spectune.exporting import keep_under, smaller
from spectune.formats.adapter_files import locate_adapter
from spectune.formats.adapter_settings import AdapterSettings

if TYPE_CHECKING:
    from torch import Tensor

    from spectune.data.report import DataReport
    from spectune.evaluation.sweep import Candidate, SweepPoint
    from spectune.formats.saved_adapter import SavedAdapter


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Metrics of one adapter under several budgets."""

    points: list[SweepPoint]
    rows: int
    """Rows that it was scored on."""
    ranked_by: str
    """Scores by which triplets were kept: `importance` or `size`."""
    report: DataReport
    """What was odd about the rows."""


def export_sweep(
    adapter: str | Path,
    data: str | Path,
    *,
    format: str = "lora",
    target_ranks: Sequence[float] | float | None = None,
    budgets: Sequence[str | int] | str | int | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    on_point: Callable[[SweepPoint], None] = lambda point: None,
) -> Sweep:
    """What `export` would give at several budgets: metrics by generation on `data`, and bytes.

    Without target ranks or budgets: the whole adapter, then four times half of its parameters. `on_point` is called
    with each result as soon as it is known; the other arguments and the errors are those of `export` and `evaluate`.
    """
    form, limits = check_form(format), [check_limit(rank, None) for rank in _listed(target_ranks)]
    limits += [check_limit(None, budget) for budget in _listed(budgets)]
    path = locate_adapter(adapter, revision)
    settings = AdapterSettings.read(path)
    examples, report = load_evaluation_examples(str(data), config=settings.data, verbalizer=settings.verbalizer)
    from spectune.api import load
    from spectune.evaluation.sweep import sweep
    from spectune.formats.saved_adapter import SavedAdapter

    found, ranked_by = candidates(SavedAdapter.read(path), [limit for limit in limits if limit] or None, form)
    points = sweep(load(path, trust_remote_code=trust_remote_code), examples, found, on_point)
    return Sweep(points=points, rows=len(examples), ranked_by=ranked_by, report=report)


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


def _listed(values: Any) -> Sequence[Any]:
    """One value stands for a list of it."""
    if values is None:
        return ()
    return values if isinstance(values, Sequence) and not isinstance(values, str) else [values]


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
