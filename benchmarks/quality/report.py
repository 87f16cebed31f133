"""All tables as Markdown, and their place in a page."""

from __future__ import annotations

from pathlib import Path

from benchmarks.quality.results import Results
from benchmarks.quality.tables import confirmed, covered, examples_needed, screened, verdict

BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"


def report(results: Results) -> str:
    """Every table that the lines give, under its heading."""
    ranks = sorted({key.rank for key in results})
    parts: list[tuple[str, str]] = []
    for rank in ranks:
        parts.append(
            (f"Test rows, r̄ = {rank}: mean ± standard deviation (difference to LoRA)", confirmed(results, rank))
        )
        parts.append(
            (f"Training examples to LoRA's final validation score, r̄ = {rank}", examples_needed(results, rank))
        )
        parts.append(
            (f"Differences that decide, r̄ = {rank}", "\n".join(f"- {line}" for line in verdict(results, rank)))
        )
    parts.append(("Share of the distance from frozen to full fine-tuning, in per cent", covered(results)))
    parts += [(f"Search on validation, one seed, r̄ = {rank} (best rate)", screened(results, rank)) for rank in ranks]
    return "\n\n".join(f"**{title}**\n\n{body}" for title, body in parts if body)


def write_between(path: Path, text: str) -> None:
    """Put `text` between the two marks of a page.

    Raises:
        SystemExit: the page lacks them.
    """
    page = path.read_text(encoding="utf-8")
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} has no {BEGIN} … {END}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
