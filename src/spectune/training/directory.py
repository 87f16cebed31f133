"""The run directory: its files, and who may write into it. Imports no torch."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from spectune.errors import RunError
from spectune.files import directory_size, remove, tidy
from spectune.launch import launched
from spectune.manifest import MANIFEST
from spectune.training.lock import NAME as LOCK
from spectune.training.lock import locked

_NAME = re.compile(r"step-\d+")
_OURS = (
    "checkpoints",
    "adapter",
    "predictions.jsonl",
    "test_predictions.jsonl",
    "summary.json",
    "report.html",
    "trackers.json",
    "tensorboard",
)

_RESULTS = ("adapter", "summary.json", "predictions.jsonl", "test_predictions.jsonl")


def list_checkpoints(directory: Path) -> list[Path]:
    """Directories named step-N with a manifest, by N; one that was being written has another name."""
    found = [path for path in directory.glob("step-*") if _NAME.fullmatch(path.name) and (path / MANIFEST).is_file()]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """N of step-N."""
    return int(checkpoint.name.removeprefix("step-"))


@dataclass(frozen=True)
class RunDirectory:
    """Paths of DESIGN's run directory."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Full-size training states, `step-N` each."""
        return self.root / "checkpoints"

    @property
    def adapter(self) -> Path:
        """What a person shares."""
        return self.root / "adapter"

    @property
    def holds_checkpoints(self) -> bool:
        """Whether there is something to go on from."""
        return bool(list_checkpoints(self.checkpoints))

    @property
    def holds_results(self) -> bool:
        """Whether a run has ended here whose checkpoints somebody has deleted since, or files lie here like a run's."""
        return any((self.root / name).exists() for name in _RESULTS)

    @property
    def _holds_a_persons_run_file(self) -> bool:
        """Whether a run file lies here that no run has written: each begins with a lock and a place for checkpoints."""
        begun = (self.root / LOCK).exists() or self.checkpoints.exists()
        return (self.root / "run.yaml").exists() and not begun

    @property
    def stamp(self) -> int | None:
        """When the newest checkpoint was written, in ns; tells an earlier run from the one that replaces it."""
        whole = list_checkpoints(self.checkpoints)
        return (whole[-1] / MANIFEST).stat().st_mtime_ns if whole else None

    def resume_hint(self, earlier: int | None = None) -> str:
        """What to do after a run was stopped: the command that goes on, if there is something to go on from.

        Args:
            earlier: the `stamp` of a run that was to be overwritten.
        """
        if launched() and not self.root.exists():  # it lies on the machine of process 0
            return "add --resume if the run directory of process 0 has checkpoints"
        if earlier is not None and self.stamp == earlier:
            return "the earlier run is still there; start it again with --overwrite"
        if not self.holds_checkpoints:
            return "nothing was saved yet; start it again"
        launcher = " (started by the launcher as before)" if launched() else ""
        return f"continue with: spectune train {shlex.quote(str(self.root / 'run.yaml'))} --resume{launcher}"

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a directory that must not be written.

        Raises:
            RunError: it holds a whole checkpoint, results, or a run file that no run has written, and neither `resume`
                nor `overwrite` is set; or it is a file.
        """
        if self.root.exists() and not self.root.is_dir():
            raise RunError(f"{self.root} is a file; name a directory in train.output_dir")
        if resume and overwrite:
            raise RunError("give either --resume or --overwrite, not both")
        if self.holds_checkpoints and not resume and not overwrite:
            raise RunError(
                f"{self.root} holds a run with checkpoints; --resume continues it, --overwrite deletes it, "
                "another train.output_dir keeps it"
            )
        if (self.holds_results or self._holds_a_persons_run_file) and not resume and not overwrite:
            what = "results without checkpoints" if self.holds_results else "a run.yaml that is no run's"
            raise RunError(f"{self.root} holds {what}; --overwrite deletes it, another train.output_dir keeps it")

    @contextmanager
    def taken(self, *, resume: bool, overwrite: bool) -> Iterator[bool]:
        """Make the directory and keep others out while the block runs; false where the system has no locks.

        What a killed process left half written is cleared; an earlier run stays until `clear`.

        Raises:
            RunError: as `check`, or it cannot be made, or another process has it.
        """
        self.check(resume=resume, overwrite=overwrite)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.root} cannot be made ({error.strerror}); name another train.output_dir") from None
        with locked(self.root) as held:
            self.check(resume=resume, overwrite=overwrite)  # while waiting for the data, another run may have ended
            self.checkpoints.mkdir(exist_ok=True)
            for directory in (self.root, self.checkpoints):
                tidy(directory)
            yield held

    @property
    def size(self) -> int:
        """Bytes that `clear` will free."""
        paths = [self.root / name for name in _OURS]
        return sum(directory_size(path) if path.is_dir() else path.stat().st_size for path in paths if path.exists())

    def clear(self) -> None:
        """Delete an earlier run, once nothing is left that could refuse the new one; other people's files stay.

        `journal.jsonl` and `run.yaml` stay, too: they are written anew in their places.
        """
        for name in _OURS:
            remove(self.root / name)
        self.checkpoints.mkdir(exist_ok=True)
