"""The run directory: its files, and who may write into it. Imports no torch."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from spectune.errors import RunError

_OURS = (
    "checkpoints",
    "adapter",
    "journal.jsonl",
    "predictions.jsonl",
    "test_predictions.jsonl",
    "summary.json",
    "run.yaml",
)


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

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a directory that must not be written.

        Raises:
            RunError: it holds a whole checkpoint and neither `resume` nor `overwrite` is set, or it is a file.
        """
        if self.root.exists() and not self.root.is_dir():
            raise RunError(f"{self.root} is a file; name a directory in train.output_dir")
        if resume and overwrite:
            raise RunError("give either --resume or --overwrite, not both")
        whole = any(self.checkpoints.glob("step-*/manifest.json"))
        if whole and not resume and not overwrite:
            raise RunError(
                f"{self.root} holds a run with checkpoints; --resume continues it, --overwrite deletes it, "
                "another train.output_dir keeps it"
            )

    def prepare(self, *, resume: bool) -> None:
        """Make the directory; a run that is not resumed starts from an empty one (other people's files stay)."""
        if not resume:
            self._clear()
        self.checkpoints.mkdir(parents=True, exist_ok=True)

    def _clear(self) -> None:
        for name in _OURS:
            path = self.root / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
