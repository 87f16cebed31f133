"""`spectune predict`: outputs for texts, as JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spectune.cli.arguments import CONSTRAIN_LABELS_HELP, check_place, refuse_own_input
from spectune.files import write_text
from spectune.launch import rank


def predict(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Directory or hub id of an adapter.")],
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="Table, or texts one a line; `-` is standard input.")
    ] = "-",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an adapter on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base model run code of its own.")
    ] = False,
    constrain_labels: Annotated[bool | None, typer.Option(help=CONSTRAIN_LABELS_HELP)] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; else standard output.")] = None,
) -> None:
    """Write {"text", "prediction"} as JSON lines, one for each text, a blank line being none; with --constrain-labels
    also "constrained_prediction" and "label_probabilities" (all labels, or the ten likeliest)."""

    def check() -> None:
        if output is not None:
            check_place(output)
            refuse_own_input(output, file)

    from spectune import api

    records, report = api.predict_file(
        adapter,
        file,
        revision=revision,
        trust_remote_code=trust_remote_code,
        constrain_labels=constrain_labels,
        check=check,
    )
    if rank() > 0:
        return
    for line in report.oddities():
        typer.echo(f"note: {line}", err=True)
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    if output is None:
        typer.echo(text, nl=False)
        return
    write_text(output, text)
