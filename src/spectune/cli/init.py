"""`spectune init`: a commented run file for data nobody has described yet."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from spectune.cli.arguments import check_place
from spectune.errors import ConfigError
from spectune.files import write_text


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help="Table, data set directory, hub id or `starter`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the run file.")] = Path("run.yaml"),
    model: Annotated[str, typer.Option(help="Base model to put into it.")] = "starter",
    preset: Annotated[
        str | None, typer.Option(help="paper, fast or best: values that the file then leaves out.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Look at the data and write a run file for it, with comments."""
    if output.is_dir():
        raise ConfigError(f"{output} is a directory; name a file with --output")
    if output.exists() and not overwrite:
        raise ConfigError(f"{output} exists; choose another name with --output, or replace it with --overwrite")
    if not output.parent.is_dir():
        raise ConfigError(f"{output}: the directory {output.parent} does not exist; make it first")
    check_place(output)
    from spectune.proposal import propose_run_file

    text = propose_run_file(data, model=model, preset=preset)
    write_text(output, text)
    typer.echo(f"wrote {output}; check it, then: spectune plan {shlex.quote(str(output))}")
