"""`spectune ranks`: where an adapter's rank went."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from spectune.cli.arguments import check_place
from spectune.errors import ConfigError
from spectune.files import write_bytes

_FORMATS = ("table", "json", "png")


def ranks(
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Directory or hub id of an AdaLoRA adapter.")],
    form: Annotated[str, typer.Option("--format", help="table, json or png.")] = "table",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; default for png: ranks.png.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of an adapter on the hub.")] = None,
) -> None:
    """Show the rank of every adapted matrix, by layer and role; also for adapters that plain PEFT made."""
    if form not in _FORMATS:
        raise ConfigError(f"there is no format {form!r}; name one of {', '.join(_FORMATS)}")
    target = output or (Path("ranks.png") if form == "png" else None)
    if target is not None:
        check_place(target)
    from spectune import exporting

    content = _content(form, exporting.ranks(adapter, revision=revision))
    if target is None:
        typer.echo(content.decode(), nl=False)
        return
    write_bytes(target, content)
    typer.echo(f"wrote {target}")


def _content(form: str, found: dict[str, int]) -> bytes:
    from spectune.adapter.roles import role_of
    from spectune.report.rank_image import rank_png
    from spectune.report.tables import rank_table, role_summary, role_table

    roles = {name: role_of(name) for name in found}
    if form == "png":
        return rank_png(found, roles)
    if form == "table":
        return f"{rank_table(found, roles)}\n\n{role_table(found, roles)}\n".encode()
    total = sum(found.values())
    answer = {"ranks": found, "total": total, "mean": total / len(found), "groups": role_summary(found, roles)}
    return (json.dumps(answer, indent=2, ensure_ascii=False) + "\n").encode()
