"""All tables as Markdown, and their place in a page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.quality.rank_figure import agreement, confirmed_ranks, parts
from benchmarks.quality.results import Results
from benchmarks.quality.tables import OURS, confirmed, covered, examples_needed, in_shorter_runs, screened, verdict


def report(results: Results) -> str:
    """Every table that the lines give, under its heading."""
    ranks = sorted({key.rank for key in results})
    if not ranks:
        return ""
    sections: list[tuple[str, str]] = []
    for rank in ranks:
        sections.append(
            (f"Test rows, r̄ = {rank}: mean ± standard deviation (difference to LoRA)", confirmed(results, rank))
        )
        sections.append(
            (f"Training examples to LoRA's final validation score, r̄ = {rank}", examples_needed(results, rank))
        )
        sections.append((f"Runs laid out for fewer examples, test rows, r̄ = {rank}", in_shorter_runs(results, rank)))
        sections.append((f"spectune less its rivals on the test rows, r̄ = {rank}", verdict(results, rank)))
    sections.append(("Share of the distance from frozen to full fine-tuning, in per cent", covered(results)))
    main = main_rank(results)
    sections.append((f"Where the rank went, r̄ = {main}", where(results, main) if main is not None else ""))
    sections += [(f"Search on validation, r̄ = {rank} (best rate)", screened(results, rank)) for rank in ranks]
    return "\n\n".join(f"**{title}**\n\n{body}" for title, body in sections if body)


def where(results: Results, rank: int) -> str:
    """Mean rank of kinds of matrices, and how far runs agree on the rank of each matrix."""
    found = confirmed_ranks(results, OURS, rank)
    if not found:
        return ""
    means = ", ".join(f"{name} {value:.2f}" for name, value in parts(found).items())
    correlations = ", ".join(f"{name} {value:.2f}" for name, value in agreement(found).items() if value is not None)
    return f"- Mean rank: {means}.\n- Correlation of the ranks of all matrices between two runs: {correlations}."


def summary(results: Results) -> str:
    """The table of the README: the methods with test scores of more than one task, at the main budget."""
    main = main_rank(results)
    return confirmed(results, main, least=2) if main is not None else ""


def main_rank(results: Results) -> int | None:
    """The budget whose test scores are of most tasks, the smallest of several; None without a test score."""
    tasks: dict[int, set[str]] = {}
    for key in results:
        if key.stage == "confirm" and key.method == OURS:
            tasks.setdefault(key.rank, set()).add(key.task)
    return min(tasks, key=lambda rank: (-len(tasks[rank]), rank), default=None)


PARTS: dict[str, Callable[[Results], str]] = {"quality": report, "quality summary": summary}
"""Name of a marked part of a page → what stands in it."""


def marks(name: str) -> tuple[str, str]:
    """The lines around a part of a page."""
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def write_between(path: Path, results: Results) -> None:
    """Put the tables between the marks of a page.

    Raises:
        SystemExit: the page has no marks.
    """
    page, found = path.read_text(encoding="utf-8"), False
    for name, make in PARTS.items():
        begin, end = marks(name)
        before, first, rest = page.partition(begin)
        _, last, after = rest.partition(end)
        if first and last:
            page, found = f"{before}{begin}\n\n{make(results)}\n\n{end}{after}", True
    if not found:
        raise SystemExit(f"{path} has none of the marks {', '.join(marks(name)[0] for name in PARTS)}")
    path.write_text(page, encoding="utf-8")
