"""Figures of a run as plotly's plain JSON: data and layout. Colours are CSS variables, which the page resolves.

No figure says anything by colour alone: lines differ by dash and marker.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from spectune.report.ranks import RankHistory, group_means
from spectune.report.run_files import RunFiles, series
from spectune.report.values import mapping, means, number, numbers, thinned

Figure = dict[str, Any]
MOST_POINTS = 800
PERCENT = ("rouge1", "rouge2", "rougeL", "bleu", "chrf", "squad_exact_match", "squad_f1")
"""Metrics in 0–100; the others are shares, or correlations, of at most 1."""
LOSS = "eval_loss"
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star")
COLOURS = 7
MOST_MARKERS = 40


def line(name: str, steps: Sequence[float], values: Sequence[float | None], number: int, **more: Any) -> Figure:
    """A curve, told from others by colour, dash and marker; long ones are thinned to means."""
    size = math.ceil(len(values) / MOST_POINTS) or 1
    xs, ys = [*steps[size - 1 :: size]], means(values, size)
    if len(xs) < len(ys):
        xs.append(steps[-1])
    colour = f"var(--s{number % COLOURS + 1})"
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
    found["rate"]["layout"]["yaxis"] |= {"tickformat": "~g", "rangemode": "tozero"}
    found["penalty"]["layout"]["yaxis"]["rangemode"] = "tozero"
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
    """Metrics over steps, those of at most 1 apart from those in 0–100."""
    names = [name for name in metric_names(files) if name != LOSS]
    found = {}
    for key, unit, chosen in (
        ("shares", "share or correlation, up to 1", [name for name in names if name not in PERCENT]),
        ("scores", "score, 0 to 100", [name for name in names if name in PERCENT]),
    ):
        traces = [points(name, *evaluations(files, name), place) for place, name in enumerate(chosen[:COLOURS])]
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
