"""The page of one run: `report.html`, with everything it needs inside it.

Everything that comes out of a run's files is escaped: by jinja2's autoescape in the text, by its `tojson` in the data
that the script reads. A content security policy runs nothing but the two scripts that belong here, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spectune.report import histograms, plots, sections
from spectune.report.ranks import RankHistory, heat_tables, rank_history
from spectune.report.run_files import SUMMARY, RunFiles, read_run
from spectune.report.values import mapping, shown

_TEMPLATES = "templates"


def run_page(directory: Path) -> str:
    """The whole page as text.

    Raises:
        RunError: the directory is no run's.
    """
    files = read_run(directory)
    history = rank_history(files).thinned()
    figures, scores = _figures(files, history)
    predictions = sections.predictions(files)
    frames = [_frame_text(history, place) for place in range(len(history.steps))]
    context = {
        "name": files.name,
        "subtitle": subtitle(files),
        "finished": files.finished,
        "status": status(files),
        "missing": files.missing,
        "facts": sections.facts(files, history),
        "phases": files.phases(),
        "figures": figures,
        "heat": heat(history) | {"text": frames[-1]} if history.frames else None,
        "scores": scores,
        "predictions": _prediction_view(predictions),
    } | _tables(files)
    context["sections"] = _present(context)
    data = {
        "figures": figures,
        "ranks": {"frames": history.frames, "texts": frames, "highest": history.highest},
        "predictions": predictions["rows"],
    }
    return render("run.html.j2", context, data)


def _tables(files: RunFiles) -> dict[str, Any]:
    """What the template shows as tables and lines."""
    return {
        "data_rows": sections.data_rows(files),
        "oddities": sections.data_oddities(files),
        "metrics": sections.final_metrics(files.summary.get("metrics")),
        "test_metrics": sections.final_metrics(mapping(files.summary.get("test")).get("metrics")),
        "proof": sections.proof(files),
        "evaluations": sections.evaluation_table(files),
        "confusion": sections.confusion(files),
        "parameters": sections.parameter_rows(files),
        "timings": sections.timings(files),
        "versions": sections.versions(files),
        "settings": sections.settings(files),
    }


def subtitle(files: RunFiles) -> str:
    """Base model, task and where it ran."""
    model, data = files.config.get("model", {}), files.config.get("data", {})
    parts = [model.get("model_name_or_path"), data.get("task"), files.start.get("device"), files.start.get("dtype")]
    return ", ".join(str(part) for part in parts if part)


def status(files: RunFiles) -> str:
    """How far the run came."""
    total = files.total_step
    of_total = f" of {total:,}" if total else ""
    if files.finished:
        return f"finished, {files.last_step:,}{of_total} steps" if files.events else "finished"
    state = "end unknown" if (files.directory / SUMMARY).exists() else "unfinished"
    return f"{state}, step {files.last_step:,}{of_total}"


def heat(history: RankHistory) -> dict[str, Any]:
    """What the macro of rank tables draws: the last frame."""
    return {
        "tables": heat_tables(history.modules),
        "steps": history.steps,
        "ranks": history.frames[-1],
        "highest": history.highest,
        "modules": history.modules,
    }


def _frame_text(history: RankHistory, place: int) -> str:
    step, budget = history.steps[place], history.budgets[place]
    total = sum(history.frames[place])
    when = "before the first allocation" if step == 0 else f"step {step:,}"
    return f"{when}: live rank {total:,}" + ("" if budget in (None, total) else f", budget {shown(budget)}")


def _figures(files: RunFiles, history: RankHistory) -> tuple[dict[str, plots.Figure], list[dict[str, Any]]]:
    """All figures by name, and a line on each of those of the scores."""
    figures = plots.curves(files) | plots.metrics(files)
    single = {
        "groups": plots.ranks_by_group(files, history),
        "thresholds": histograms.thresholds(files),
        "source_lengths": histograms.lengths(files, "source"),
        "target_lengths": histograms.lengths(files, "target"),
    }
    figures |= {name: figure for name, figure in single.items() if figure is not None}
    scores = []
    for one in histograms.score_figures(files):
        key = f"scores_{one['step']}"
        figures[key] = one["figure"]
        note = f"{one['kept']:,} kept, lowest {shown(one['threshold'], 3)}"
        note += f"; {one['zero']:,} without a score not drawn" if one["zero"] else ""
        scores.append({"key": key, "step": one["step"], "note": note})
    return figures, scores


def _prediction_view(predictions: dict[str, Any]) -> dict[str, Any]:
    total, right = predictions["total"], predictions["right"]
    choices = [("all", "all", total), ("wrong", "✗ wrong", total - right), ("right", "✓ right", right)]
    return {
        "total": total,
        "shown": len(predictions["rows"]),
        "splits": predictions["splits"],
        "choices": choices,
    }


def _present(context: dict[str, Any]) -> list[tuple[str, str]]:
    """Anchors and names of the sections that the page has."""
    there = {
        ("training", "Training"): "loss" in context["figures"] or "budget" in context["figures"],
        ("ranks", "Ranks"): context["heat"],
        ("scores", "Scores"): context["scores"],
        ("data", "Data"): context["data_rows"] or context["oddities"],
        ("metrics", "Metrics"): context["evaluations"]["rows"] or context["metrics"],
        ("confusion", "Confusion"): context["confusion"],
        ("predictions", "Predictions"): context["predictions"]["total"],
        ("settings", "Settings"): True,
    }
    return [section for section, present in there.items() if present]


def render(template: str, context: dict[str, Any], data: dict[str, Any]) -> str:
    """A template with its style, its scripts and the data they read."""
    plotly, script = plotly_source(), _text("report.js")
    return (
        environment()
        .get_template(template)
        .render(
            context,
            data=data,
            style=Markup(_text("style.css")),
            plotly=Markup(plotly),
            script=Markup(script),
            script_hashes=f"{_hash(plotly)} {_hash(script)}",
            version=version("spectune"),
        )
    )


@cache
def environment() -> Environment:
    """Templates with everything escaped; JSON as a script element can hold it, NaN refused."""
    made = Environment(
        loader=PackageLoader("spectune.report", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return made


@cache
def plotly_source() -> str:
    """The script that plotly's Python package brings along."""
    return package_files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")


def _text(name: str) -> str:
    return package_files("spectune.report").joinpath(_TEMPLATES, name).read_text(encoding="utf-8")


def _hash(script: str) -> Markup:
    """What a content security policy calls a script by. The quotes are part of it."""
    return Markup(f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
