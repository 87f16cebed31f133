"""The commands, put together. Each lives in its own file and imports what is heavy only when it runs."""

from __future__ import annotations

import logging
import warnings
from typing import Annotated

import typer

from spectune import __version__
from spectune.cli.evaluate import evaluate
from spectune.cli.export import export
from spectune.cli.init import init
from spectune.cli.plan import plan
from spectune.cli.predict import predict
from spectune.cli.push import push
from spectune.cli.ranks import ranks
from spectune.cli.starter import starter
from spectune.cli.train import train

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command()(init)
app.command()(plan)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(ranks)
app.command()(export)
app.command()(push)
app.command()(starter)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spectune {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune encoder-decoder language models with AdaLoRA: adapters whose rank goes where it matters."""
    warnings.formatwarning = _one_line
    # at its import it recommends a faster kernel, which PEFT's import makes everybody read
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the place in the code that gave it."""
    return f"spectune: warning: {' '.join(str(message).split())}\n"
