"""Figures that count: scores of the last allocations, lengths of sources and targets. Bars differ by pattern."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spectune.report.plots import COLOURS, Figure, figure, line, spans_decades
from spectune.report.run_files import RunFiles, series
from spectune.report.values import entries, mapping, number, whole, whole_list

LAST_ALLOCATIONS = 4
_PATTERNS = ("", "/", ".", "x")


def score_figures(files: RunFiles) -> list[dict[str, Any]]:
    """Kept and cut scores of the last allocations: `{"step", "kept", "cut", "zero", "figure"}`, on one axis."""
    having = [entry for entry in files.of("allocation") if _histogram(entry)]
    chosen = having[-LAST_ALLOCATIONS:]
    bounds = [number(entry["scores"][side]) or 0.0 for entry in chosen for side in ("low", "high")]
    made = []
    for entry in chosen:
        scores, threshold = entry["scores"], number(entry.get("threshold"))
        kept, cut = whole_list(scores["kept"]), whole_list(scores["cut"])
        low, high = number(scores["low"]) or 0.0, number(scores["high"]) or 0.0
        width = (high - low) / len(kept) or 1.0
        places = [low + (position + 0.5) * width for position in range(len(kept))]
        data = [
            _bars("kept", places, kept, 0) | {"width": width},
            _bars("cut", places, cut, 1) | {"width": width},
        ]
        drawn = figure(data, x="score, decimal logarithm", y="triplets")
        drawn["layout"] |= {"barmode": "stack", "bargap": 0}
        drawn["layout"]["xaxis"]["range"] = [min(bounds) - width, max(bounds) + width]
        if threshold is not None and threshold > 0:
            drawn["layout"]["shapes"] = [_upright(math.log10(threshold))]
        made.append(
            {
                "step": entry["step"],
                "kept": sum(whole_list(list(mapping(entry.get("ranks")).values()))),
                "zero": whole(scores.get("zero")) or 0,
                "threshold": threshold,
                "figure": drawn,
            }
        )
    return made


def _histogram(entry: dict[str, Any]) -> bool:
    scores = mapping(entry.get("scores"))
    kept, cut = whole_list(scores.get("kept")), whole_list(scores.get("cut"))
    low, high = number(scores.get("low")), number(scores.get("high"))
    return bool(kept) and len(kept) == len(cut) and low is not None and high is not None and low <= high


def thresholds(files: RunFiles) -> Figure | None:
    """The lowest score that survived, at every allocation."""
    steps, values = series(files.of("allocation"), "threshold")
    if len(steps) < 2:
        return None
    return figure(
        [line("threshold", steps, values, 0)],
        x="optimizer step",
        y="lowest score kept",
        phases=files.phases(),
        log=spans_decades(values),
    )


def _bars(name: str, places: Sequence[float], heights: Sequence[float], place: int) -> Figure:
    marker = {
        "color": f"var(--s{place % COLOURS + 1})",
        "pattern": {
            "shape": _PATTERNS[place % len(_PATTERNS)],
            "fillmode": "overlay",
            "fgcolor": "var(--card)",
            "size": 7,
        },
    }
    return {"type": "bar", "name": name, "x": list(places), "y": list(heights), "marker": marker}


def _upright(place: float) -> Figure:
    """A dashed vertical line through the whole plot."""
    line = {"color": "var(--ink)", "width": 1.5, "dash": "dash"}
    return {"type": "line", "x0": place, "x1": place, "y0": 0, "y1": 1, "yref": "paper", "line": line}


def _beside(place: float, text: str) -> Figure:
    """Words at the top of an upright line, to its left."""
    return {"x": place, "y": 1, "yref": "paper", "text": text, "showarrow": False, "xanchor": "right", "yanchor": "top"}


def lengths(files: RunFiles, side: str) -> Figure | None:
    """Lengths in tokens of every split's sources or targets (`side`), after the cut, as shares of the rows."""
    splits = mapping(mapping(files.start.get("data")).get("splits"))
    counted = {name: _length_counts(mapping(split).get(f"{side}_lengths")) for name, split in splits.items()}
    counted = {name: counts for name, counts in counted.items() if counts}
    if not counted:
        return None
    longest = max(length for counts in counted.values() for length in counts)
    width = math.ceil(longest / 40)
    traces = []
    for place, (name, counts) in enumerate(list(counted.items())[: len(_PATTERNS)]):
        rows = sum(counts.values())
        binned: dict[int, int] = {}
        for length, many in counts.items():
            start = (length - 1) // width * width + 1
            binned[start] = binned.get(start, 0) + many
        bins = sorted(binned)
        traces.append(_bars(name, [b + (width - 1) / 2 for b in bins], [100 * binned[b] / rows for b in bins], place))
    drawn = figure(traces, x=f"tokens of the {side}", y="% of rows")
    drawn["layout"] |= {"barmode": "group", "bargap": 0.1, "showlegend": True}
    limit = whole(files.config.get("data", {}).get(f"max_{side}_length"))
    if limit is not None and limit <= 1.5 * longest:
        drawn["layout"] |= {"shapes": [_upright(limit)], "annotations": [_beside(limit, f"max_{side}_length")]}
    if longest <= 10:
        drawn["layout"]["xaxis"] |= {"dtick": 1, "range": [0.5, longest + 0.5]}
    return drawn


def _length_counts(value: Any) -> dict[int, int]:
    pairs = [whole_list(pair) for pair in entries(value)]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0] >= 1 and pair[1] >= 1}
