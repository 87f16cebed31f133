"""Tables from the lines: scores with their spread, paired differences, the distance covered, examples needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import mean, stdev
from typing import Any

from benchmarks.quality.methods import METHODS
from benchmarks.quality.results import Key, Results
from benchmarks.quality.tasks import TASKS
from benchmarks.writing import table

REFERENCE = "PEFT LoRA"
OURS = "spectune"
RIVALS = ("PEFT LoRA", "PEFT AdaLoRA, its defaults", "PEFT AdaLoRA, the paper's settings")


def screened(results: Results, rank: int) -> str:
    """Best validation score of each search that is over, and its learning rate."""
    rows, tasks = [], _tasks(results, "search", rank)
    for method in METHODS:
        row: dict[str, Any] = {"method": method}
        for task in tasks:
            rate = results.best_rate(TASKS[task].value, task, method, rank)
            row[_head(task)] = "" if rate is None else _searched(results, task, method, rank, rate)
        if any(row[_head(task)] for task in tasks):
            rows.append(row)
    return table(rows) if rows else ""


def confirmed(results: Results, rank: int, least: int = 1) -> str:
    """Test scores: mean ± standard deviation over the seeds, and the mean of the differences to LoRA, seed by seed.

    Args:
        results: all lines.
        rank: budget.
        least: tasks that a method must have, of those that there are.
    """
    rows, tasks = [], _tasks(results, "confirm", rank)
    for method in METHODS:
        row: dict[str, Any] = {"method": method}
        for task in tasks:
            row[_head(task)] = _cell(task, scores(results, task, method, rank), scores(results, task, REFERENCE, rank))
        if sum(row[_head(task)] != "" for task in tasks) >= max(1, min(least, len(tasks))):
            rows.append(row)
    return table(rows) if rows else ""


def covered(results: Results) -> str:
    """What share of the distance from the frozen base to full fine-tuning each method covers, in per cent of it."""
    rows = []
    for rank in sorted({key.rank for key in results if key.stage == "confirm"}):
        for method in METHODS:
            row: dict[str, Any] = {"r̄": str(rank), "method": method}
            for task in _tasks(results, "confirm", None):
                row[task] = _share(results, task, method, rank)
            if METHODS[method].kind not in ("frozen", "full") and any(list(row.values())[2:]):
                rows.append(row)
    return table(rows) if rows else ""


def examples_needed(results: Results, rank: int) -> str:
    """Training examples until the final validation score of LoRA is first reached, mean over seeds that reach it."""
    rows = []
    for task in _tasks(results, "confirm", rank):
        goals = {seed: _validation(entry, task) for seed, entry in _watched(results, task, REFERENCE, rank).items()}
        for method in METHODS:
            watched = _watched(results, task, method, rank).items()
            runs = [(entry, goals[seed]) for seed, entry in watched if entry.get("curve") and seed in goals]
            if runs:
                steps = [_first_step(entry, task, goal) for entry, goal in runs]
                reached = [step * TASKS[task].batch_size for step in steps if step is not None]
                rows.append(
                    {
                        "task": task,
                        "method": method,
                        "examples": f"{mean(reached):,.0f}" if reached else "",
                        "seeds that reach it": f"{len(reached)} of {len(runs)}",
                    }
                )
    return table(rows) if rows else ""


def in_shorter_runs(results: Results, rank: int) -> str:
    """Test scores of runs laid out for fewer examples, and the mean of the differences to LoRA's whole run."""
    rows = []
    for name, task in TASKS.items():
        whole = TASKS[task.cut_from] if task.cut_from else task
        theirs = scores(results, whole.name, REFERENCE, rank)
        for method in METHODS if task.cut_from else ():
            ours = scores(results, name, method, rank)
            pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
            if pairs:
                rows.append(
                    {
                        "task": whole.name,
                        "method": method,
                        "steps": f"{task.steps} of {whole.steps}",
                        "score (less LoRA's whole run)": _cell(name, ours, theirs),
                        "seeds at or above": f"{sum(a >= b for a, b in pairs)} of {len(pairs)}",
                    }
                )
    return table(rows) if rows else ""


def verdict(results: Results, rank: int) -> str:
    """Ours less each rival, task by task: the mean of the differences, seed by seed."""
    rows = []
    for task in _tasks(results, "confirm", rank):
        ours, row = scores(results, task, OURS, rank), {"task": _head(task)}
        for rival in RIVALS:
            theirs = scores(results, task, rival, rank)
            pairs = [(ours[seed], theirs[seed]) for seed in ours if seed in theirs]
            row[f"less {rival}"] = _plain(mean(a - b for a, b in pairs), task, sign=True) if pairs else ""
        if any(list(row.values())[1:]):
            rows.append(row)
    return table(rows) if rows else ""


def scores(results: Results, task: str, method: str, rank: int) -> dict[int, float]:
    """Test score by seed."""
    value = TASKS[task].value
    return {key.seed: value(results[key]["test"]) for key in _runs(results, task, method, rank)}


def _watched(results: Results, task: str, method: str, rank: int) -> dict[int, dict[str, Any]]:
    """The line of each seed: of its run for a curve where there is one, else of its confirmation."""
    stages = ("confirm", "curve")
    return {key.seed: results[key] for stage in stages for key in _runs(results, task, method, rank, stage)}


def _runs(results: Results, task: str, method: str, rank: int, stage: str = "confirm") -> list[Key]:
    """Runs at the rate that the search has chosen, none while it goes on; it may have left some at another."""
    every = [key for key in results if (key.stage, key.task, key.method) == (stage, task, method)]
    if METHODS[method].kind == "frozen":  # no rate to choose
        return every
    if METHODS[method].kind != "full":  # it has one number for all ranks
        every = [key for key in every if key.rank == rank]
    chosen = {key.rank: results.best_rate(TASKS[task].value, TASKS[task].searched, method, key.rank) for key in every}
    return [key for key in every if key.rate == chosen[key.rank]]


def _tasks(results: Results, stage: str, rank: int | None) -> list[str]:
    there = {key.task for key in results if key.stage == stage and rank in (None, key.rank)}
    return [name for name, task in TASKS.items() if name in there and not task.cut_from]


def _searched(results: Results, task: str, method: str, rank: int, rate: float) -> str:
    value, _ = results.searched(TASKS[task].value, task, method, rank)[rate]
    return f"{_plain(value, task)} ({rate:.0e})"


def _head(task: str) -> str:
    return f"{task}: {TASKS[task].unit}"


def _cell(task: str, mine: Mapping[int, float], reference: Mapping[int, float]) -> str:
    if not mine:
        return ""
    values = list(mine.values())
    spread = f" ± {_plain(stdev(values), task)}" if len(values) > 1 else ""
    shared = [mine[seed] - reference[seed] for seed in mine if seed in reference]
    return f"{_plain(mean(values), task)}{spread}" + (f" ({_plain(mean(shared), task, sign=True)})" if shared else "")


def _share(results: Results, task: str, method: str, rank: int) -> str:
    low, high, mine = (
        _mean(scores(results, task, name, rank).values()) for name in ("frozen", "full fine-tuning", method)
    )
    if low is None or high is None or mine is None or high <= low:
        return ""
    return f"{100 * (mine - low) / (high - low):.0f}"


def _mean(values: Iterable[float]) -> float | None:
    listed = list(values)
    return mean(listed) if listed else None


def _validation(entry: dict[str, Any], task: str) -> float:
    return TASKS[task].value(entry["validation"])


def _first_step(entry: dict[str, Any], task: str, goal: float) -> int | None:
    value = TASKS[task].value
    curve = [*entry["curve"], {"step": TASKS[task].steps, **entry["validation"]}]
    return next((point["step"] for point in curve if value(point) >= goal), None)


def _plain(value: float, task: str, *, sign: bool = False) -> str:
    digits = {"exact_match": 3, "minus loss": 2}.get(TASKS[task].unit, 1)  # a share, nats, or per cent
    return f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}"
