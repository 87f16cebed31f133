"""`spectune report`: a run as a page, or several runs compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from spectune.cli.arguments import check_place

PAGE, COMPARISON = "report.html", "spectune-comparison.html"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="One run directory, or several to compare.")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help=f"File to write; else {PAGE} in the run directory, {COMPARISON} in this directory for several runs.",
        ),
    ] = None,
) -> None:
    """Write one self-contained page: curves, ranks, scores, data, metrics, predictions; also of an unfinished run."""
    if output is not None:
        check_place(output)
    from spectune.files import write_text

    if len(runs) == 1:
        from spectune.report.page import run_page

        text, place = run_page(runs[0]), output or runs[0] / PAGE
    else:
        from spectune.report.comparison import comparison_page

        text, place = comparison_page(runs), output or Path(COMPARISON)
    write_text(place, text)
    typer.echo(f"wrote {place}")
