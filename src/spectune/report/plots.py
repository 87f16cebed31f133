"""Figures of a run as plotly's plain JSON: data and layout. Colours are CSS variables, which the page resolves.

No figure says anything by colour alone: lines differ by dash and marker, bars by pattern.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spectune.report.ranks import RankHistory, group_means
from spectune.report.run_files import RunFiles, series
from spectune.report.values import entries, mapping, means, number, numbers, thinned, whole, whole_list

Figure = dict[str, Any]
MOST_POINTS = 800
SHARES = ("exact_match", "accuracy", "macro_f1", "non_label_share")
"""Metrics in 0–1; the other text metrics are in 0–100."""
LOSS = "eval_loss"
LAST_ALLOCATIONS = 4
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
_PATTERNS = ("", "/", ".", "x")
_COLOURS = 7
MOST_MARKERS = 40


def line(name: str, steps: Sequence[float], values: Sequence[float | None], number: int, **more: Any) -> Figure:
    """A curve, told from others by colour, dash and marker; long ones are thinned to means."""
    size = math.ceil(len(values) / MOST_POINTS) or 1
    xs, ys = [*steps[size - 1 :: size]], means(values, size)
    if len(xs) < len(ys):
        xs.append(steps[-1])
    colour = f"var(--s{number % _COLOURS + 1})"
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(xs) <= MOST_MARKERS else "lines",
        "name": name,
        "x": xs,
        "y": ys,
        "line": {"color": colour, "width": 2, "dash": _DASHES[number % len(_DASHES)]},
        "marker": {"symbol": _SYMBOLS[number % len(_SYMBOLS)], "size": 6, "color": colour},
        **more,
    }


def points(name: str, steps: Sequence[float], values: Sequence[float | None], number: int) -> Figure:
    """Marks joined by a thin line: values of evaluations."""
    trace = line(name, steps, values, number)
    trace["line"]["width"] = 1.5
    trace["marker"]["size"] = 8
    return trace | {"mode": "lines+markers"}


def figure(
    data: list[Figure], *, x: str, y: str, phases: dict[str, tuple[int, int]] | None = None, log: bool = False
) -> Figure:
    """A figure with readable axes, and the phases as shaded bands."""
    axis = {"gridcolor": "var(--line)", "zerolinecolor": "var(--line)", "linecolor": "var(--line)", "automargin": True}
    layout: Figure = {
        "xaxis": axis | {"title": {"text": x, "standoff": 8}},
        "yaxis": axis | {"title": {"text": y, "standoff": 8}, "type": "log" if log else "linear"},
        "margin": {"l": 48, "r": 12, "t": 12, "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": "var(--ink)", "family": "system-ui, sans-serif", "size": 12},
        "hoverlabel": {"bgcolor": "var(--card)", "font": {"color": "var(--ink)"}, "bordercolor": "var(--line)"},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        "showlegend": len(data) > 1,
        "shapes": _bands(phases or {}),
        "dragmode": "zoom",
    }
    if log:
        layout["yaxis"] |= {"dtick": 1, "tickformat": "~g"}
    return {"data": data, "layout": layout}


def _bands(phases: dict[str, tuple[int, int]]) -> list[Figure]:
    return [
        {
            "type": "rect",
            "layer": "below",
            "yref": "paper",
            "x0": first - 1,
            "x1": last,
            "y0": 0,
            "y1": 1,
            "line": {"width": 0},
            "fillcolor": f"var(--phase{number % 3 + 1})",
        }
        for number, (first, last) in enumerate(phases.values())
    ]


def spans_decades(values: Sequence[float | None]) -> bool:
    """Whether values are all positive and differ by more than a factor of 20: they want a logarithmic axis."""
    known = [value for value in values if value is not None]
    return bool(known) and min(known) > 0 and max(known) > 20 * min(known)


def curves(files: RunFiles) -> dict[str, Figure]:
    """Loss, learning rate, penalty, budget and live rank over steps; those that the journal has."""
    steps, phases = files.of("step"), files.phases()
    if not steps:
        return {}
    x = "optimizer step"
    loss = [line("training loss", *series(steps, "loss"), 0)]
    evaluated = evaluations(files, LOSS)
    if evaluated[0]:
        loss.append(points("evaluation loss", *evaluated, 1))
    log = spans_decades([value for trace in loss for value in trace["y"]])
    found = {
        "loss": figure(loss, x=x, y="nats per target token", phases=phases, log=log),
        "penalty": figure([line("penalty", *series(steps, "penalty"), 0)], x=x, y="penalty", phases=phases),
        "rate": figure([line("learning rate", *series(steps, "learning_rate"), 0)], x=x, y="rate", phases=phases),
    }
    found["rate"]["layout"]["yaxis"]["tickformat"] = "~g"
    return found | _budget(files, steps, phases)


def _budget(files: RunFiles, steps: list[Figure], phases: dict[str, tuple[int, int]]) -> dict[str, Figure]:
    """Budget against what is spent; live rank apart from them where the budget counts parameters."""
    x, budget = "optimizer step", mapping(files.start.get("budget"))
    allocated = series(files.of("allocation"), "budget")
    initial = number(budget.get("initial"))
    if initial is not None:
        allocated = ([0, *allocated[0]], [initial, *allocated[1]])
    if allocated[0]:
        allocated = ([*allocated[0], max(files.last_step, allocated[0][-1])], [*allocated[1], allocated[1][-1]])
    step_line = line("budget", *allocated, 1)
    step_line["line"]["shape"] = "hv"
    live = points("live rank", *series(steps, "live"), 0) | {"mode": "markers"}
    if budget.get("unit") != "parameters":
        return {"budget": figure([step_line, live], x=x, y="triplets, all matrices", phases=phases)}
    spent = points("spent", *series(steps, "spent"), 0) | {"mode": "markers"}
    return {
        "budget": figure([step_line, spent], x=x, y="parameters", phases=phases),
        "live": figure([live], x=x, y="live rank, all matrices", phases=phases),
    }


def evaluations(files: RunFiles, metric: str) -> tuple[list[int], list[float | None]]:
    """Steps and values of one metric."""
    found = [(entry["step"], numbers(entry.get("metrics"))) for entry in files.of("evaluation")]
    having = [(step, values[metric]) for step, values in found if metric in values]
    return [step for step, _ in having], [value for _, value in having]


def metric_names(files: RunFiles) -> list[str]:
    """Every metric that an evaluation or the summary has."""
    named = [name for entry in files.of("evaluation") for name in numbers(entry.get("metrics"))]
    return list(dict.fromkeys([*mapping(files.summary.get("metrics")), *named]))


def metrics(files: RunFiles) -> dict[str, Figure]:
    """Metrics over steps, those in 0–1 apart from those in 0–100."""
    names = [name for name in metric_names(files) if name != LOSS]
    found = {}
    for key, unit, chosen in (
        ("shares", "share of rows, 0 to 1", [name for name in names if name in SHARES]),
        ("scores", "score, 0 to 100", [name for name in names if name not in SHARES]),
    ):
        traces = [points(name, *evaluations(files, name), place) for place, name in enumerate(chosen[:_COLOURS])]
        traces = [trace for trace in traces if trace["x"]]
        if traces:
            found[key] = figure(traces, x="optimizer step", y=unit, phases=files.phases())
            found[key]["layout"]["showlegend"] = True
    return found


def ranks_by_group(files: RunFiles, history: RankHistory) -> Figure | None:
    """Mean rank of self-attention, cross-attention and feed-forward, by stack, over the allocations."""
    if len(history.steps) < 2:
        return None
    chosen = thinned(len(history.steps), MOST_POINTS)
    traces = []
    for place, (name, values) in enumerate(group_means(history).items()):
        trace = line(name, [history.steps[i] for i in chosen], [values[i] for i in chosen], place)
        last = max(files.last_step, history.steps[-1])
        trace["x"], trace["y"] = [*trace["x"], last], [*trace["y"], values[-1]]
        trace["line"]["shape"] = "hv"  # a rank stays until the next allocation
        traces.append(trace)
    return figure(traces, x="optimizer step", y="mean rank per matrix", phases=files.phases())


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
        "color": f"var(--s{place % _COLOURS + 1})",
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
