"""The bar over tokenisation: on a terminal, without one, quiet, and not at all for what takes a moment."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from tests.training.conftest import Run

from spectune.data import token_cache
from spectune.manifest import sha256
from spectune.training import progress
from spectune.training.progress import Reporter


class Clock:
    """Time that only moves when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("spectune.training.progress.time.monotonic", lambda: self.now)


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def through(stream: StringIO, clock: Clock, seconds: float, *, quiet: bool = False) -> str:
    """What a bar of ten parts shows when each takes `seconds`."""
    with Reporter(stream=stream, quiet=quiet).bar("tokenising train", 20_000) as advance:
        for _ in range(10):
            clock.now += seconds
            advance(2000)
    return stream.getvalue()


def test_nothing_is_shown_of_a_moment(clock: Clock) -> None:
    assert through(StringIO(), clock, 0.05) == ""
    assert through(Terminal(), clock, 0.05) == ""


def test_lines_without_a_terminal(clock: Clock) -> None:
    lines = through(StringIO(), clock, 4.0).splitlines()
    shares = [1, 4, 7, 10]
    assert lines == [f"   tokenising train: {n * 10}% ({n * 2000:,} of 20,000)" for n in shares]


def test_a_bar_on_a_terminal(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = through(Terminal(), clock, 4.0)
    assert re.search("tokenising train.*[━╸].*%", shown)


def test_quiet_shows_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert through(StringIO(), clock, 4.0, quiet=True) == ""
    assert through(Terminal(), clock, 4.0, quiet=True) == ""


@pytest.mark.usefixtures("quick_proof")
def test_a_run_shows_the_bar_and_keeps_its_tokens(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run takes them from the cache and is the same run, also to a checkpoint of the first."""
    monkeypatch.setattr(token_cache, "WORTH_KEEPING", 500)
    monkeypatch.setattr(progress, "_MOMENT", 0.0)
    data = {"cache_dir": str(tmp_path / "cache")}
    first, second, third = StringIO(), StringIO(), StringIO()
    made = run(data=data, screen=first)
    hashes = {path.name: sha256(path) for path in made.adapter.iterdir()}
    assert re.search(r"tokenising train: 50% \(\d+ of \d+\)", first.getvalue())
    assert len(list((tmp_path / "cache").iterdir())) == 1, "the validation rows are too few"
    taken = run(data=data, screen=second, overwrite=True)
    assert "token ids of 37 rows taken from" in second.getvalue()
    assert "tokenising train" not in second.getvalue()
    assert _facts(taken.summary) == _facts(made.summary)
    assert {path.name: sha256(path) for path in taken.adapter.iterdir()} == hashes
    run(data=data | {"cache_tokens": False}, screen=third, resume=True)
    assert "resumed from step-14" in third.getvalue()
    assert "taken from" not in third.getvalue()


def _facts(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name not in ("timings", "reload")}
