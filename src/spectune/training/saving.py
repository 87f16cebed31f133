"""The loop's state, saved and restored: everything that a continuation needs to be the run that was not stopped."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from spectune.errors import RunError
from spectune.files import circumstance
from spectune.training.checkpoint import RandomState, load_checkpoint, random_state, retain, save_checkpoint
from spectune.training.directory import RunDirectory, list_checkpoints

if TYPE_CHECKING:
    from spectune.training.loop import Loop


@dataclass
class Progress:
    """Everything of the loop that a checkpoint holds, as JSON values."""

    step: int = 0
    best: dict[str, Any] | None = None
    """{"step", "metric", "value"} of the best evaluation after the freeze."""
    without_gain: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    evaluation_due: bool = False
    """Stopped while `step` was being evaluated: a continuation evaluates first."""


def save_loop(loop: Loop, *, due: bool = True) -> None:
    """Write a checkpoint of the step just taken, and delete those that are too many.

    Args:
        due: false for a save that only a signal asked for: a continuation takes its entry out of the journal.

    Raises:
        RunError: it cannot be written; the ones before it are whole.
    """
    started, step = time.monotonic(), loop.progress.step
    loop.read()
    before = loop.journal.position
    loop.journal.write("save", step)
    loop.journal.flush()
    position = loop.journal.position if due else before
    path = loop.checkpoints / f"step-{step}"
    randoms = loop.processes.gather(random_state())
    loop.processes.first(lambda: _write(loop, path, position, randoms))
    loop.saved_step = step
    loop.save_seconds.append(time.monotonic() - started)


def _write(loop: Loop, path: Path, position: int, randoms: list[RandomState]) -> None:
    best = loop.progress.best
    try:
        save_checkpoint(path, loop.trained, _state(loop, position), loop.fingerprint, randoms)
    except (OSError, SafetensorError) as error:
        refusal = _not_saved(loop, error)
        if refusal is None:
            raise
        raise refusal from error
    try:
        keep = None if best is None else loop.checkpoints / f"step-{best['step']}"
        retain(loop.checkpoints, loop.config.train.save_total_limit, keep, path)
    except OSError as error:  # a checkpoint too many is no reason to stop
        loop.reporter.warning(f"an old checkpoint cannot be deleted: {error}")


def restore_loop(loop: Loop, checkpoint: Path) -> None:
    """Put the loop where it was when `checkpoint` was written. Raises RunError for another stream of data."""
    saved = load_checkpoint(checkpoint, loop.trained, processes=loop.processes)
    loop.loader.load_state_dict(saved["loader"])
    loop.losses.load_state_dict(saved["losses"])
    loop.unlogged = saved["unlogged"]
    loop.progress = Progress(**saved["loop"])
    loop.saved_step = loop.progress.step
    if not loop.journal.rewind(saved["journal"]):
        loop.reporter.warning("journal.jsonl is shorter than it was at this checkpoint; some entries are missing")


def _state(loop: Loop, position: int) -> dict[str, Any]:
    return {
        "loop": vars(loop.progress),
        "losses": loop.losses.state_dict(),
        "unlogged": loop.unlogged,
        "loader": loop.place or loop.loader.state_dict(),
        "journal": position,
    }


def _not_saved(loop: Loop, error: OSError | SafetensorError) -> RunError | None:
    root, step = loop.checkpoints.parent, loop.progress.step
    if isinstance(error, FileNotFoundError) and not loop.checkpoints.is_dir():
        return RunError(f"{loop.checkpoints} has vanished; the checkpoint of step {step:,} cannot be written")
    line = circumstance(error)
    if line is None:
        return None
    whole = list_checkpoints(loop.checkpoints)
    left = (
        f"{whole[-1].name} is whole; mend that, then {RunDirectory(root).resume_hint()}"
        if whole
        else "there is none before it"
    )
    return RunError(f"the checkpoint of step {step:,} cannot be written ({line}); {left}")
