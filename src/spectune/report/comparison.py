"""The page that compares runs: curves overlaid, ranks side by side, the settings that differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from spectune.errors import RunError
from spectune.report import plots, sections
from spectune.report.page import heat, render, status, subtitle
from spectune.report.ranks import RankHistory, group_means, rank_history
from spectune.report.run_files import RunFiles, read_run, series
from spectune.report.values import mapping, number, shown

MOST_RUNS = 12
_MISSING = "–"
_ITS_OWN = {("train", "output_dir")}
"""Settings that are a run's name and no difference."""


def comparison_page(directories: Sequence[Path]) -> str:
    """The whole page as text.

    Raises:
        RunError: a directory is no run's, one is named twice, or they are too many.
    """
    places = [directory.resolve() for directory in directories]
    if len(set(places)) < len(places):
        twice = next(directory for directory, place in zip(directories, places, strict=True) if places.count(place) > 1)
        raise RunError(f"{twice} is named twice; name each run once")
    if len(places) > MOST_RUNS:
        raise RunError(f"{len(places)} runs are too many for one page; name at most {MOST_RUNS}")
    runs = [read_run(directory) for directory in directories]
    histories = [rank_history(files) for files in runs]
    names = run_names(places)
    figures = _figures(runs, histories, names)
    highest = max(history.highest for history in histories)
    context = {
        "names": names,
        "runs": [
            {"name": name, "subtitle": subtitle(files), "status": status(files), "missing": files.missing}
            for name, files in zip(names, runs, strict=True)
        ],
        "metrics": metric_table(runs),
        "differences": differing_settings(runs),
        "facts": _facts(runs, histories),
        "figures": figures,
        "curves": [key for key in ("loss", "live", "rate", "penalty") if key in figures],
        "metric_figures": [key for key in figures if key.startswith("metric_")],
        "heats": [
            heat(history) | {"name": name, "highest": highest} if history.frames else None
            for name, history in zip(names, histories, strict=True)
        ],
        "groups": group_table(histories),
    }
    return render("compare.html.j2", context, {"figures": figures})


def run_names(places: Sequence[Path]) -> list[str]:
    """The directories' own names, with as much of the path before as tells them apart."""
    for depth in range(1, max(len(place.parts) for place in places) + 1):
        names = ["/".join(place.parts[-depth:]) for place in places]
        if len(set(names)) == len(names):
            break
    return names


def metric_table(runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
    """Final metrics: one row for each, a value for each run; `differ` where signatures do not agree."""
    final = [mapping(files.summary.get("metrics")) for files in runs]
    rows = []
    for name in dict.fromkeys(name for metrics in final for name in metrics):
        entries = [mapping(metrics.get(name)) for metrics in final]
        signatures = {str(entry["signature"]) for entry in entries if "signature" in entry}
        values = [shown(number(entry.get("value"))) for entry in entries]
        rows.append({"name": name, "values": values, "differ": len(signatures) > 1, "signatures": sorted(signatures)})
    return rows[: sections.MOST_ROWS]


def differing_settings(runs: Sequence[RunFiles]) -> list[tuple[str, list[str]]]:
    """(section.key, a value for each run) of every setting, version and machine that is not the same in all."""
    tables = [_all_settings(files) for files in runs]
    rows = []
    for key in dict.fromkeys(key for table in tables for key in table):
        values = [table.get(key, _MISSING) for table in tables]
        if len(set(values)) > 1:
            rows.append((key, values))
    return rows


def _all_settings(files: RunFiles) -> dict[str, str]:
    found = {
        f"{section}.{key}": sections.value_text(value)
        for section, entries in files.config.items()
        for key, value in entries.items()
        if (section, key) not in _ITS_OWN
    }
    return found | {f"version or machine: {name}": value for name, value in sections.versions(files)}


def group_table(histories: Sequence[RankHistory]) -> list[tuple[str, list[str]]]:
    """(group, the mean rank of its matrices in each run), at the end."""
    means = [{name: values[-1] for name, values in group_means(history).items() if values} for history in histories]
    return [
        (group, [f"{mean[group]:.2f}" if group in mean else _MISSING for mean in means])
        for group in dict.fromkeys(group for mean in means for group in mean)
    ]


def _facts(runs: Sequence[RunFiles], histories: Sequence[RankHistory]) -> list[tuple[str, list[str]]]:
    """Steps, ranks, parameters and times, one value for each run."""
    names = {"trainable": "trainable at the start", "trainable_after_freeze": "after the freeze", "saved": "saved"}
    rows = [
        ("steps", [f"{files.last_step:,}" for files in runs]),
        ("live rank", [shown(sum(h.frames[-1])) if h.frames else _MISSING for h in histories]),
    ]
    counts = [sections.parameters_of(files) for files in runs]
    rows += [(f"parameters {words}", [shown(count.get(key)) for count in counts]) for key, words in names.items()]
    times = [dict(sections.timings(files)) for files in runs]
    for name in dict.fromkeys(name for time in times for name in time):
        rows.append(
            (f"time: {name}" if "per second" not in name else name, [time.get(name, _MISSING) for time in times])
        )
    return rows


def _figures(
    runs: Sequence[RunFiles], histories: Sequence[RankHistory], names: Sequence[str]
) -> dict[str, plots.Figure]:
    """One line for each run in each figure."""
    x = "optimizer step"

    def overlaid(y: str, curve: Callable[[RunFiles], Any], draw: Any = plots.line, log: bool = False) -> plots.Figure:
        traces = [draw(name, *curve(files), place) for place, (name, files) in enumerate(zip(names, runs, strict=True))]
        traces = [trace for trace in traces if any(value is not None for value in trace["y"])]
        on_log = log and plots.spans_decades([value for trace in traces for value in trace["y"]])
        drawn = plots.figure(traces, x=x, y=y, log=on_log)
        drawn["layout"]["showlegend"] = True
        return drawn

    def of_steps(key: str) -> Callable[[RunFiles], Any]:
        return lambda files: series(files.of("step"), key)

    def of_evaluations(metric: str) -> Callable[[RunFiles], Any]:
        return lambda files: plots.evaluations(files, metric)

    figures = {
        "loss": overlaid("nats per target token", of_steps("loss"), log=True),
        "live": overlaid("live rank, all matrices", of_steps("live")),
        "rate": overlaid("rate", of_steps("learning_rate")),
        "penalty": overlaid("penalty", of_steps("penalty")),
    }
    for metric in dict.fromkeys(name for files in runs for name in plots.metric_names(files)):
        figures[f"metric_{metric}"] = overlaid(metric, of_evaluations(metric), plots.points, log=metric == plots.LOSS)
    return {name: figure for name, figure in figures.items() if figure["data"]}
