"""`spectune push`: an adapter, or an exported model, to the hub."""

from __future__ import annotations

from typing import Annotated

import typer

from spectune.errors import visible


def push(
    directory: Annotated[
        str, typer.Argument(metavar="DIR", help="What `train` or `export` wrote, or a run's directory.")
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="The repository on the hub.")],
    base_model: Annotated[
        str | None, typer.Option(help="Hub id of the base, where the adapter names a directory.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    branch: Annotated[str | None, typer.Option(help="Branch to commit to; made if need be.")] = None,
    message: Annotated[str, typer.Option(help="Of the commit.")] = "Adapter trained with spectune",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
) -> None:
    """Send an adapter to the hub, with its model card, in one commit."""
    from spectune.formats.publishing import prepared, send

    with prepared(directory, repository, base_model) as upload:
        for name, size in upload.files.items():
            typer.echo(visible(f"{size:>12,}  {name}"))
        typer.echo(f"{upload.size:>12,}  bytes in {len(upload.files)} files")
        if upload.left_out:
            typer.echo(visible(f"left out, unknown to the manifest: {', '.join(upload.left_out)}"))
        if upload.base is not None:
            typer.echo(visible(f"base: {upload.base}"))
        if dry_run:
            typer.echo(f"nothing was sent; without --dry-run this goes to {upload.repository}")
            return
        typer.echo(f"sent: {send(upload, private=private, branch=branch, message=message)}")
