"""`run_cli`: the command's own entry point, in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from spectune.cli import main


@dataclass(frozen=True)
class Finished:
    """What a command left behind."""

    status: int
    out: str
    err: str

    def error(self) -> str:
        """The one line of a refusal; fails for anything else."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert self.err.startswith("spectune: error: "), self.err
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("spectune: error: ").rstrip("\n")


RunCli = Callable[..., Finished]


@pytest.fixture
def run_cli(capsys: pytest.CaptureFixture[str]) -> RunCli:
    """Runs `spectune ARGS…` in this process."""

    def run(*args: str | Path) -> Finished:
        capsys.readouterr()
        status = main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return Finished(status, captured.out, captured.err)

    return run


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    """A small table: text, label 0 to 2."""
    rows = "".join(f"the {word} review number {n},{n % 3}\n" for n in range(60) for word in ("first", "second"))
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + rows, encoding="utf-8")
    return path


@pytest.fixture
def run_file(tmp_path: Path, reviews: Path) -> Path:
    """A run file for it that `plan` accepts."""
    path = tmp_path / "run.yaml"
    config = Path(__file__).parents[1] / "configs" / "bart-base"
    path.write_text(
        f"model:\n  model_name_or_path: {config}\n"
        f"data:\n  train_file: {reviews}\n  label_names: {{0: bad, 1: fair, 2: good}}\n"
        f"train:\n  output_dir: {tmp_path / 'out'}\n",
        encoding="utf-8",
    )
    return path
