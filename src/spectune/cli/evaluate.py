"""`spectune evaluate`: an adapter's scores on some data, by generation."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from spectune.cli.arguments import CONSTRAIN_LABELS_HELP
from spectune.data.wording import count
from spectune.files import finite
from spectune.launch import rank


def evaluate(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Directory or hub id of an adapter.")],
    data: Annotated[str, typer.Option(help="Table, data set directory, hub id or `starter`.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an adapter on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base model run code of its own.")
    ] = False,
    constrain_labels: Annotated[bool | None, typer.Option(help=CONSTRAIN_LABELS_HELP)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead of a table.")] = False,
) -> None:
    """Generate for every row of the data and score the outputs, each score with its signature."""
    from spectune import api
    from spectune.report.tables import MOST_LABELS_SHOWN, confusion_table, metrics_table

    result, report = api.evaluate_data(
        adapter, data, revision=revision, trust_remote_code=trust_remote_code, constrain_labels=constrain_labels
    )
    if rank() > 0:
        return
    for line in [*report.notes, *report.oddities()]:
        typer.echo(f"note: {line}", err=True)
    metrics = {name: asdict(metric) for name, metric in result.metrics.items()}
    if as_json:
        answer = {"rows": result.rows, "metrics": metrics, "confusion": result.confusion}
        typer.echo(json.dumps(finite(answer), ensure_ascii=False))
    else:
        typer.echo(f"{count(result.rows, 'row')} of {data}")
        typer.echo(metrics_table(metrics))
        if result.confusion is not None and len(result.confusion["rows"]) <= MOST_LABELS_SHOWN:
            typer.echo(confusion_table(result.confusion))
