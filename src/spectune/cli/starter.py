"""`spectune starter`: the bundled base model as a directory of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def starter(directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the model.")]) -> None:
    """Write the bundled base model and its tokenizer into a directory."""
    from spectune.starter.bundle import write_model

    write_model(directory)
    typer.echo(f"wrote the starter model to {directory}")
