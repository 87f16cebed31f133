"""`spectune export`: an adapter as plain LoRA, as a merged model, or smaller; metrics against budget."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spectune.cli.arguments import check_place, refuse_own_input
from spectune.errors import ConfigError

if TYPE_CHECKING:
    from spectune.evaluation.sweep import SweepPoint


_TABLE = Path("sweep.json")


def export(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Directory or hub id of an adapter.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory to write; with --sweep, a JSON file.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="lora, merged or adalora.")] = "lora",
    target_rank: Annotated[
        str | None, typer.Option(metavar="K", help="Average rank to keep, by the run's scores; a list with --sweep.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most bytes (400kB) or parameters; a list with --sweep.")
    ] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Score the adapter at several budgets instead.")] = False,
    data: Annotated[
        str | None, typer.Option(help="With --sweep: table, data set directory, hub id, `starter`.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export, or the file of a sweep.")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an adapter on the hub.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Let the base model run code of its own.")
    ] = False,
) -> None:
    """Write an adapter as a plain LoRA adapter (lora), a full model (merged), or a smaller AdaLoRA adapter (adalora).

    With --sweep: a table of metrics against budget, by generation on --data. Several budgets are separated by commas.
    """
    common: dict[str, Any] = {"format": form, "revision": revision, "trust_remote_code": trust_remote_code}
    ranks = [_rank(word) for word in _words(target_rank)]
    if sweep:
        _check_table(output or _TABLE, data, overwrite=overwrite)
        _sweep(adapter, data, output or _TABLE, ranks, _words(budget), common)
        return
    if data is not None:
        raise ConfigError("--data goes with --sweep, which scores the adapter at several budgets")
    if output is None:
        raise ConfigError("name the directory to write with --output")
    if len(ranks) > 1:
        raise ConfigError("several target ranks go with --sweep")
    from spectune import exporting
    from spectune.files import read_json

    rank = ranks[0] if ranks else None
    result = exporting.export(adapter, output, target_rank=rank, budget=budget, overwrite=overwrite, **common)
    kept = sum(result.ranks.values())
    if result.chosen_by is not None:
        typer.echo(f"kept {kept:,} of {result.before:,} triplets, chosen by {exporting.CHOSEN_BY[result.chosen_by]}")
    typer.echo(f"wrote {result.directory} ({result.form}, {result.weights_bytes / 1e3:,.0f} kB of weights)")
    if result.form == "merged":  # a base that `dtype: auto` held in bfloat16 is written so
        typer.echo(f"weights in {read_json(result.directory / 'config.json').get('dtype')}, as the run held its base")


def _check_table(target: Path, data: str | None, *, overwrite: bool) -> None:
    check_place(target, "a JSON file")
    refuse_own_input(target, data)
    if target.is_file() and not overwrite:
        raise ConfigError(f"{target} is there already; name another file with --output, or give --overwrite")


def _sweep(
    adapter: str, data: str | None, target: Path, ranks: list[float], budgets: list[str], common: dict[str, Any]
) -> None:
    if data is None:
        raise ConfigError("--sweep needs rows to score: name them with --data")
    from spectune.exporting import CHOSEN_BY
    from spectune.files import finite, write_json
    from spectune.report.tables import sweep_table
    from spectune.sweeping import export_sweep

    result = export_sweep(adapter, data, target_ranks=ranks, budgets=budgets, on_point=_show, **common)
    for line in result.report.oddities():
        typer.echo(f"note: {line}", err=True)
    points = [point.as_dict() for point in result.points]
    typer.echo(f"{result.rows:,} rows of {data}; triplets ranked by {CHOSEN_BY[result.ranked_by]}")
    typer.echo(sweep_table(points))
    write_json(
        target,
        {
            "adapter": adapter,
            "data": data,
            "rows": result.rows,
            "format": common["format"],
            "ranked_by": result.ranked_by,
            "points": finite(points),
        },
    )
    typer.echo(f"wrote {target}")


def _show(point: SweepPoint) -> None:
    """One line on standard error for each budget, since an evaluation takes its time."""
    values = ", ".join(f"{name} {metric.value:.4g}" for name, metric in point.metrics.items())
    typer.echo(f"{point.limit}: {values}", err=True)


def _words(given: str | None) -> list[str]:
    return [word.strip() for word in (given or "").split(",") if word.strip()]


def _rank(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"--target-rank {word!r} is no number") from None
