"""Experiment trackers through accelerate: what the journal says, live, under the journal's names. No torch at import.

A tracker is a guest: one that cannot start, or fails on the way (the network), costs a warning and never the run. The
journal has everything in any case.
"""

from __future__ import annotations

import importlib.util
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

from spectune.config import RunConfig
from spectune.errors import ConfigError, first_line
from spectune.files import read_json, write_json
from spectune.training.journal import Journal

PROJECT = "spectune"
_RUN_ID = "trackers.json"
_PACKAGES = {
    "aim": "aim",
    "clearml": "clearml",
    "comet_ml": "comet-ml",
    "dvclive": "dvclive",
    "mlflow": "mlflow",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
"""accelerate's names, which are those of the modules → the package to install."""


def names_of(report_to: str | list[str]) -> list[str]:
    """`train.report_to` as a list; `none` names nothing."""
    names = [report_to] if isinstance(report_to, str) else report_to
    return [name for name in dict.fromkeys(names) if name != "none"]


def check_trackers(report_to: str | list[str]) -> None:
    """Refuse a tracker that there is not, before anything is loaded.

    Raises:
        ConfigError: an unknown name, or one whose library is not installed; says how to get it.
    """
    for name in names_of(report_to):
        if name not in _PACKAGES:
            if name in _registered():
                continue
            near = get_close_matches(name, _PACKAGES, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"train.report_to {name} is no tracker that accelerate knows ({', '.join(_PACKAGES)}, none){meant}"
            )
        if importlib.util.find_spec(name) is None:
            raise ConfigError(
                f"train.report_to {name} needs a library that is not installed; pip install {_PACKAGES[name]}"
            )


def _registered() -> Mapping[str, Any]:
    """Trackers that somebody added with accelerate's `register_tracker_class`."""
    module = sys.modules.get("accelerate.tracking")
    return getattr(module, "LOGGER_TYPE_TO_CLASS", {})


@contextmanager
def tracked(
    config: RunConfig, root: Path, journal: Journal, *, resumed_at: int | None, warn: Callable[[str], None]
) -> Iterator[None]:
    """While the block runs, the trackers of `train.report_to` get what goes into the journal.

    Args:
        config: of the run; what it says is stored with each tracker when the run begins.
        root: the run directory, where trackers with files put them, each in a directory of its name.
        journal: what is followed.
        resumed_at: the step of the checkpoint that the run goes on from; tensorboard, wandb and trackio then go on in
            the run that they had.
        warn: told once of each tracker that fails.
    """
    trackers: list[Any] = []
    names = names_of(config.train.report_to)
    run_id = _run_id(root, resumed_at) if names else ""
    for name in names:
        _works(name, warn, partial(_start, trackers, name, config, root, run_id, resumed_at))

    def follow(event: str, step: int, fields: Mapping[str, Any]) -> None:
        values = tracked_values(event, fields)
        if values:
            trackers[:] = [one for one in trackers if _works(one.name, warn, partial(one.log, values, step=step))]

    journal.follower = follow if trackers else None
    try:
        yield
    finally:
        journal.follower = None
        for tracker in trackers:
            _works(tracker.name, warn, tracker.finish)


def _works(name: str, warn: Callable[[str], None], act: Callable[[], Any]) -> bool:
    try:
        act()
    except Exception as error:  # whatever a tracker's library and its network raise
        warn(f"the tracker {name} failed and gets nothing more ({first_line(error)}); journal.jsonl has everything")
        return False
    return True


def _start(trackers: list[Any], name: str, config: RunConfig, root: Path, run_id: str, resumed_at: int | None) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=name, project_dir=str(root))
    ours = {
        "tensorboard": {"purge_step": None if resumed_at is None else resumed_at + 1},
        "trackio": {"name": root.name, "resume": "allow"},
        "wandb": {"name": root.name, "dir": str(root), "id": run_id, "resume": "allow"},
    }
    settings = flattened(config.model_dump()) if resumed_at is None else None
    project = name if name == "tensorboard" else PROJECT  # to tensorboard it is the name of a directory
    accelerator.init_trackers(project, settings, {name: ours.get(name, {})})
    trackers.append(accelerator.trackers[0])


def _run_id(root: Path, resumed_at: int | None) -> str:
    """The id of the run where it is continued by id: drawn once, kept in the run directory."""
    path = root / _RUN_ID
    if resumed_at is None or not path.is_file():
        write_json(path, {"id": secrets.token_hex(4)})
    return str(read_json(path)["id"])


def tracked_values(event: str, fields: Mapping[str, Any]) -> dict[str, float | int]:
    """The numbers of a journal entry, under its names; the ranks of an allocation in summary.

    Steps and allocations give their own fields, evaluations their metrics; the other events have no numbers to follow.
    """
    if event == "evaluation":
        fields = fields["metrics"]
    elif event == "allocation":
        ranks = list(fields["ranks"].values())
        summary = {"min": min(ranks), "mean": sum(ranks) / len(ranks), "max": max(ranks), "zero": ranks.count(0)}
        fields = {**fields, **{f"ranks/{name}": value for name, value in summary.items()}}
    elif event != "step":
        return {}
    return {
        name: value for name, value in fields.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def flattened(settings: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """{"train": {"seed": 1}} → {"train.seed": 1}: what every tracker takes; lists and null as text."""
    flat: dict[str, bool | int | float | str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
