"""The engine's state inside a Trainer's checkpoint, and what a resumed run must find there."""

from __future__ import annotations

from pathlib import Path

from spectune.adapter.engine import AdaLoraEngine
from spectune.adapter.schedule import RankSchedule
from spectune.errors import RunError
from spectune.integrations.trainer_schedule import words
from spectune.training.checkpoint import load_engine, save_engine

_DIRECTORY = "spectune"
_OF_THE_TRAINER = ("optimizer.pt", "scheduler.pt", "rng_state.pth")


def add_engine(checkpoint: Path, engine: AdaLoraEngine) -> None:
    """Write the directory `spectune` into a checkpoint: whole, or not there."""
    save_engine(checkpoint / _DIRECTORY, engine)


def take_up_engine(directory: Path, engine: AdaLoraEngine) -> Path:
    """Restore the engine from a checkpoint, or from the directory of a named adapter in it; returns the checkpoint.

    Raises:
        RunError: there is no state of an engine, or a damaged one.
        AdapterError: it is of another model.
    """
    for checkpoint in (directory, directory.parent):
        if (checkpoint / _DIRECTORY).is_dir():
            load_engine(checkpoint / _DIRECTORY, engine)
            return checkpoint
    raise RunError(
        f"{directory} holds no directory {_DIRECTORY}: it was made without AdaLoraCallback, or cut short; resume from "
        "an older checkpoint"
    )


def check_resumed(engine: AdaLoraEngine, schedule: RankSchedule, step: int, checkpoint: Path | None) -> None:
    """Refuse a continuation that would not be the run that was stopped.

    Args:
        engine: as restored.
        schedule: what this run's settings give.
        step: the Trainer's last optimizer step.
        checkpoint: what the engine was restored from.

    Raises:
        RunError: the engine was not restored, the Trainer lacks a file, or the schedule is another.
    """
    if checkpoint is None or engine.last_step != step:
        raise RunError(
            f"the Trainer goes on from step {step:,}, the engine's state is of step {max(engine.last_step, 0):,}; "
            "resume from a checkpoint that was made with AdaLoraCallback"
        )
    missing = [name for name in _OF_THE_TRAINER if not (checkpoint / name).is_file()]
    if missing:
        raise RunError(
            f"{checkpoint} has no {', '.join(missing)}: the run would not be the one that was stopped; resume from an "
            "older checkpoint (they are complete without save_only_model)"
        )
    if schedule != engine.schedule:
        raise RunError(
            f"{checkpoint} is of a run of {engine.schedule.total_step:,} steps ({words(engine.schedule)}), this one "
            f"has {schedule.total_step:,} ({words(schedule)}); resume with the settings that it began with"
        )
