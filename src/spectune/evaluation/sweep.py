"""One trained adapter at several budgets: its metrics by generation, against the size of its file.

The adapter is loaded once. Triplets that a budget does not pay for are cut out of its tensors: with λ = 0 in their
place products would have other widths than the smaller adapter's, and other last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from spectune.adapter.peft_inference import as_pruned
from spectune.data.examples import Example
from spectune.evaluation.metric import Metric
from spectune.evaluation.trained import TrainedAdapter
from spectune.formats.adapter_tensors import PREFIX


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An adapter under one budget."""

    limit: str
    """The budget as it was asked for."""
    keep: Mapping[str, Tensor]
    """Matrix → (r,) bool over the triplets in its file."""
    weights_bytes: int
    """Of the file of weights."""


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """What one budget came to."""

    limit: str
    triplets: int
    average_rank: float
    weights_bytes: int
    metrics: dict[str, Metric]

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def sweep(
    trained: TrainedAdapter,
    examples: Sequence[Example],
    candidates: Sequence[Candidate],
    on_point: Callable[[SweepPoint], None] = lambda point: None,
) -> list[SweepPoint]:
    """Evaluate an adapter under each of the budgets, in order; the adapter is as before when this returns.

    Args:
        trained: loaded by `load_adapter`.
        examples: what it is scored on.
        candidates: what each budget keeps.
        on_point: called with each point as soon as it is known.
    """
    points = []
    for candidate in candidates:
        with _only(trained.model, candidate.keep):
            result = trained.evaluate(examples)
        triplets = sum(int(stays.sum()) for stays in candidate.keep.values())
        points.append(
            SweepPoint(
                limit=candidate.limit,
                triplets=triplets,
                average_rank=triplets / len(candidate.keep),
                weights_bytes=candidate.weights_bytes,
                metrics=result.metrics,
            )
        )
        on_point(points[-1])
    return points


@contextmanager
def _only(model: nn.Module, keep: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the adapter has the triplets of `keep` and no others; a load of the smaller AdaLoRA has these tensors."""
    whole: list[tuple[nn.Parameter, Tensor]] = []
    pruned = not all(bool(stays.all()) for stays in keep.values())
    try:
        for name, stays in keep.items():
            layer: Any = model.get_submodule(PREFIX + name)
            for entries, axis in ((layer.lora_A, 0), (layer.lora_E, 0), (layer.lora_B, 1)):
                entry = entries["default"]
                whole.append((entry, entry.data))
                kept = stays.to(entry.device).nonzero()[:, 0]
                left = entry.data.index_select(axis, kept)
                entry.data = as_pruned(layer, left) if pruned else left
        yield
    finally:
        for entry, values in whole:
            entry.data = values
