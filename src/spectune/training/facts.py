"""What the journal keeps for the report beside the numbers of the steps: the start, the scores, the evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spectune.adapter.store import TripletStore
from spectune.data.report import DataReport
from spectune.data.tokenization import TokenizedSet
from spectune.evaluation.evaluate import Evaluation
from spectune.training.outputs import versions
from spectune.training.session import Ready, name_of

SCORE_BINS = 30
MOST_LABELS = 100  # more of them in one split are told by their number alone


def start_facts(ready: Ready) -> dict[str, Any]:
    """What is known before the first step: schedule, budget, parameters, matrices, machine, data. JSON values."""
    session, adapted = ready.session, ready.adapted
    engine = adapted.engine
    return {
        "schedule": asdict(engine.schedule) | {"freeze_step": engine.schedule.freeze_step},
        "budget": {
            "unit": "parameters" if engine.spending.by_parameters else "triplets",
            "initial": engine.initial_budget,
            "target": engine.target_budget,
        },
        "parameters": {"trainable": adapted.trainable, "total": adapted.total},
        "matrices": [matrix.name for matrix in engine.store.matrices],
        "steps_per_epoch": session.outline.lengths.steps_per_epoch,
        "device": session.device.type,
        "dtype": name_of(session.dtype),
        "processes": session.processes.size,
        "sharded": None if session.sharded is None else session.sharded.facts(),
        "versions": versions(),
        "data": data_facts(session.data.report, ready.sets),
    }


@dataclass(frozen=True)
class Allocation:
    """What one allocation decided, still on the device."""

    step: int
    budget: int
    keep: Tensor
    """(n,) bool, over the triplets in memory."""
    threshold: Tensor
    """A scalar."""
    scores: Tensor
    """(n,) by which it was decided."""


def allocation_facts(allocations: Sequence[Allocation], store: TripletStore) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step, and budget, threshold, ranks and scores of each; the device is read three times, however many there are."""
    if not allocations:
        return
    sizes = [len(one.keep) for one in allocations]
    masks = torch.cat([one.keep for one in allocations]).cpu().split(sizes)
    scores = torch.cat([one.scores.float() for one in allocations]).cpu().split(sizes)
    thresholds: list[float] = torch.stack([one.threshold for one in allocations]).tolist()
    names = [matrix.name for matrix in store.matrices]
    for one, mask, chosen_by, threshold in zip(allocations, masks, scores, thresholds, strict=True):
        ranks = [sum(alive) for alive in store.by_matrix(mask.tolist())]
        yield (
            one.step,
            {
                "budget": one.budget,
                "threshold": threshold,
                "ranks": dict(zip(names, ranks, strict=True)),
                "scores": score_histogram(chosen_by.numpy(), mask.numpy()),
            },
        )


def data_facts(report: DataReport, sets: dict[str, TokenizedSet]) -> dict[str, Any]:
    """Sizes, oddities, lengths in tokens and what was cut, for every split; counts in the place of row numbers."""
    splits = {}
    for split in report.splits:
        facts: dict[str, Any] = {
            "origin": split.origin,
            "rows_read": split.rows_read,
            "examples": split.examples,
            "dropped": {reason: len(rows) for reason, rows in split.dropped.items()},
            "repeated": len(split.repeated),
            "conflicting": len(split.conflicting),
            "labels": split.labels if len(split.labels) <= MOST_LABELS else {},
        }
        splits[split.name] = facts | (_token_facts(sets[split.name]) if split.name in sets else {})
    overlaps = {where: len(rows) for where, rows in report.overlaps.items()}
    return {"splits": splits, "overlaps": overlaps, "notes": report.notes}


def _token_facts(tokenized: TokenizedSet) -> dict[str, Any]:
    return {
        **asdict(tokenized.truncation),
        "unfaithful_targets": tokenized.unfaithful_targets,
        "tokens": tokenized.tokens,
        "source_lengths": _lengths(tokenized.input_ids),
        "target_lengths": _lengths(tokenized.labels),
    }


def _lengths(rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """[length in tokens after the cut, rows that have it], by length."""
    return [list(pair) for pair in sorted(Counter(map(len, rows)).items())]


def evaluation_facts(result: Evaluation) -> dict[str, Any]:
    """Values, their signatures and the time an evaluation took. JSON values."""
    return {
        "metrics": {name: metric.value for name, metric in result.metrics.items()},
        "signatures": {name: metric.signature for name, metric in result.metrics.items()},
        "seconds": round(result.seconds, 3),
    }


def score_histogram(scores: NDArray[np.float32], keep: NDArray[np.bool_]) -> dict[str, Any]:
    """Counts of the scores of one allocation, kept and cut apart, in equal bins of their decimal logarithm.

    Args:
        scores: (n,).
        keep: (n,).

    Returns:
        {"low", "high": bounds of log10 score, "kept", "cut": `SCORE_BINS` counts each, "zero": scores that have no
        logarithm (0, not finite)}; bounds are None where no score has one.
    """
    has_log = np.isfinite(scores) & (scores > 0)
    logs = np.log10(scores[has_log], dtype=np.float64)
    if not len(logs):
        return {"low": None, "high": None, "kept": [], "cut": [], "zero": len(scores)}
    low, high = float(logs.min()), float(logs.max())
    bounds = (low, max(high, low + 1e-9))
    kept, cut = (
        np.histogram(logs[chosen], SCORE_BINS, bounds)[0].tolist() for chosen in (keep[has_log], ~keep[has_log])
    )
    return {"low": low, "high": high, "kept": kept, "cut": cut, "zero": int(len(scores) - len(logs))}
