"""Mistakes as a person makes them: real processes, one line on standard error, exit status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MISTAKES = [
    (["train", "none.yaml"], "none.yaml: there is no such run file"),
    (["train", "{run}", "data.text_column=txt"], "has no column 'txt' (data.text_column); it has text, label"),
    (["train", "{run}", "data.train_file=none.csv"], "none.csv"),
    (["train", "{run}", "data.train_file={empty}"], "empty.csv"),
    (
        ["train", "{run}", "adapter.target_rank=4"],
        "adapter.target_rank is not a known key; did you mean",
    ),
    (["train", "{run}", "adapter.tinit=0.8"], "the budget would never reach its target"),
    (["train", "{run}", "model.model_name_or_path=none/at/all"], "none/at/all"),
    (["train", "{run}", "train.learning_rate=fast"], "train.learning_rate: 'fast' is not a number"),
    (["train", "{run}", "adapter.budget=4 parsecs"], "budget '4 parsecs' is neither a size"),
    (["train"], "give a run file, or --model and --data"),
    (["plan", "{run}", "{run}"], "is neither the run file nor section.key=value"),
    (["predict", "{empty}"], "empty.csv is a file; name an adapter's directory or hub id"),
    (["evaluate", "{here}", "--data", "starter"], "is not an adapter's directory: it holds no adapter_config.json"),
    (["init", "none.csv", "--output", "new.yaml"], "none.csv does not exist"),
    (["tune"], "No such command 'tune'"),
]


ENVIRONMENTS = [
    ({"SPECTUNE_DATA": "/nowhere"}, ["train", "{run}", "data.train_file=data/x/train.csv"], "/nowhere/x/train.csv"),
    ({"HF_HUB_OFFLINE": "1"}, ["plan", "{run}", "model.model_name_or_path=owner/private"], "owner/private"),
]


def refused(run_file: Path, place: Path, arguments: list[str], environment: dict[str, str]) -> str:
    """The one line; fails for any other end."""
    empty = place / "empty.csv"
    empty.touch()
    places = {"{run}": str(run_file), "{empty}": str(empty), "{here}": str(place)}
    words = []
    for word in arguments:
        for name, path in places.items():
            word = word.replace(name, path)
        words.append(word)
    before = {path.name for path in place.iterdir()}
    finished = subprocess.run(
        [sys.executable, "-m", "spectune", *words],
        capture_output=True,
        text=True,
        cwd=place,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")} | environment,
        timeout=60,
    )
    assert finished.returncode == 2, finished.stderr
    assert finished.stderr.startswith("spectune: error: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert finished.stdout == ""
    assert {path.name for path in place.iterdir()} == before, "nothing is left behind"
    return finished.stderr


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES)
def test_mistakes(run_file: Path, tmp_path: Path, arguments: list[str], expected: str) -> None:
    assert expected in refused(run_file, tmp_path, arguments, {})


@pytest.mark.parametrize(("environment", "arguments", "expected"), ENVIRONMENTS)
def test_environments(
    run_file: Path, tmp_path: Path, environment: dict[str, str], arguments: list[str], expected: str
) -> None:
    assert expected in refused(run_file, tmp_path, arguments, environment)
