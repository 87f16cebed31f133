"""Taking up a checkpoint: the newest whole one, of the same run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spectune.config import RunConfig
from spectune.errors import RunError
from spectune.files import read_json
from spectune.training.checkpoint import load_checkpoint, newest_checkpoint
from spectune.training.loop import Loop, Progress
from spectune.training.outputs import versions
from spectune.training.session import Session

_MAY_CHANGE = {"train": {"output_dir", "logging_steps", "save_steps", "save_total_limit"}}


def run_identity(config: RunConfig) -> dict[str, Any]:
    """The settings that a resumed run must share with its checkpoint, versions and threads included."""
    sections = config.model_dump(mode="json")
    kept = {
        name: {key: value for key, value in section.items() if key not in _MAY_CHANGE.get(name, set())}
        for name, section in sections.items()
        if name != "evaluation"
    }
    return kept | {"versions": versions(), "threads": torch.get_num_threads()}


def resume_run(session: Session, loop: Loop, resume: bool | str) -> None:
    """Restore model, optimizer, loader, random states and progress; the journal goes on without double entries.

    Raises:
        RunError: no whole checkpoint, or one of another run; says what differs.
    """
    path, notes = _find(session, resume)
    for note in notes:
        session.reporter.warning(note)
    _check_identity(read_json(path / "state.json")["progress"]["identity"], loop.identity)
    saved = load_checkpoint(path, loop.trained)
    loop.loader.load_state_dict(saved["loader"])
    loop.losses.load_state_dict(saved["losses"])
    loop.unlogged = saved["unlogged"]
    loop.progress = Progress(**saved["loop"])
    loop.journal.rewind(saved["journal"])
    session.reporter.line(f"resumed from {path.name}")


def _find(session: Session, resume: bool | str) -> tuple[Path, list[str]]:
    if not isinstance(resume, str):
        return newest_checkpoint(session.paths.checkpoints)
    path = Path(resume)
    if (path / "manifest.json").is_file():
        return path, []
    return newest_checkpoint(path / "checkpoints" if (path / "checkpoints").is_dir() else path)


def _check_identity(saved: dict[str, Any], here: dict[str, Any]) -> None:
    for name, value in here.items():
        if saved.get(name) == value:
            continue
        if isinstance(value, dict) and isinstance(saved.get(name), dict):
            name, before, now = _first_difference(name, saved[name], value)
        else:
            before, now = saved.get(name), value
        raise RunError(
            f"the checkpoint is of another run: {name} was {before!r} and is {now!r} now; "
            "set it back, or start anew with --overwrite"
        )


def _first_difference(name: str, saved: dict[str, Any], here: dict[str, Any]) -> tuple[str, Any, Any]:
    key = next(key for key in {**saved, **here} if saved.get(key) != here.get(key))
    return f"{name}.{key}", saved.get(key), here.get(key)
