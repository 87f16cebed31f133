"""What can be wrong with the request for an export: found before torch is imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from spectune.budget import Budget, parse_budget
from spectune.errors import ConfigError, RunError
from spectune.files import can_be_written
from spectune.manifest import read_manifest

Form = Literal["lora", "merged", "adalora"]
FORMS: tuple[Form, ...] = ("lora", "merged", "adalora")
Limit = float | Budget
"""A target rank, or a budget."""
EXPORT = "export"
"""In a manifest: what may be replaced."""


def check_form(form: str) -> Form:
    """Raises ConfigError for a name that is no form of an export."""
    for known in FORMS:
        if form == known:
            return known
    raise ConfigError(f"there is no format {form!r}; name one of {', '.join(FORMS)}")


def check_limit(target_rank: float | None, budget: str | int | None) -> Limit | None:
    """The one limit that was asked for; None where neither was. Raises ConfigError."""
    if target_rank is not None and budget is not None:
        raise ConfigError("give a target rank or a budget, not both")
    if budget is not None:
        try:
            return parse_budget(budget)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if target_rank is not None and (isinstance(target_rank, bool) or not isinstance(target_rank, int | float)):
        raise ConfigError(f"target rank {target_rank!r} is no number")
    if target_rank is not None and not 0 < target_rank < float("inf"):
        raise ConfigError(f"target rank {target_rank:g} is no rank; give a number above 0")
    return target_rank


def followed(output: Path) -> Path:
    """Where a link to a directory leads: what is written replaces the directory, and not the link."""
    return output.resolve() if output.is_symlink() and output.is_dir() else output


def check_output(output: Path, needed: Mapping[str, Path | None], *, overwrite: bool) -> None:
    """Refuse a place that cannot or must not be written.

    Args:
        output: the directory that will be replaced as a whole.
        needed: directories that must stay, by what they are.
        overwrite: an earlier export may go.

    Raises:
        RunError: a file, a directory that holds something, or (also with `overwrite`) something that is no export.
    """
    if output.exists() and not output.is_dir():
        raise RunError(f"{output} is a file; name a directory for the export")
    place, here = output.resolve(), Path.cwd()
    if place == here or place in here.parents:
        raise RunError(f"{output} is the current directory, or holds it; name a new directory")
    for what, path in needed.items():
        source = None if path is None else path.resolve()
        if source is not None and (place == source or place in source.parents or source in place.parents):
            raise RunError(f"{output} holds {what}, or lies inside it; name another directory")
    if output.is_dir() and any(output.iterdir()):
        if not overwrite:
            raise RunError(f"{output} is not empty; name another directory, or give --overwrite to replace it")
        if not _is_export(output):
            raise RunError(f"{output} is not empty and no export, so it is not replaced; name another directory")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{output.parent} cannot be made: {error.strerror}") from None
    if not can_be_written(output):
        raise RunError(f"{output} cannot be made, {output.parent} takes nothing from you; name a directory elsewhere")


def _is_export(directory: Path) -> bool:
    try:
        return EXPORT in read_manifest(directory).get("fingerprint", {})
    except RunError:
        return False
