"""`spectune evaluate`: an adapter's scores on some data, by generation."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer


def evaluate(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Directory or hub id of an adapter.")],
    data: Annotated[str, typer.Option(help="Table, data set directory, hub id or `starter`.")],
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an adapter on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base model run code of its own.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object instead of a table.")] = False,
) -> None:
    """Generate for every row of the data and score the outputs, each score with its signature."""
    from spectune import api
    from spectune.report.tables import metrics_table

    result = api.evaluate(api.load(adapter, revision=revision, trust_remote_code=trust_remote_code), data)
    metrics = {name: asdict(metric) for name, metric in result.metrics.items()}
    if as_json:
        typer.echo(json.dumps({"rows": result.rows, "metrics": metrics}, ensure_ascii=False))
    else:
        typer.echo(f"{result.rows:,} rows of {data}")
        typer.echo(metrics_table(metrics))
