"""What a person sees while a run goes on: headings, lines, and a live line where there is a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from spectune.errors import visible

HEADINGS = {
    1: "Prepare data",
    2: "Configure AdaLoRA",
    3: "Load and adapt",
    4: "Train with rank allocation",
    5: "Evaluate by generation",
    6: "Save and reload",
}

_MOMENT, _BETWEEN_LINES = 1.0, 10.0  # seconds


class Reporter:
    """Writes to a stream; `quiet` writes nothing. Final: other outputs are other readers of the journal."""

    def __init__(self, *, quiet: bool = False, stream: Any = None) -> None:
        self._console = Console(file=stream or sys.stdout, quiet=quiet, highlight=False, soft_wrap=True)
        self._live: Live | None = None

    def heading(self, number: int) -> None:
        """One of the six steps begins."""
        self._stop()
        self._console.print(Text(f"\n{number}. {HEADINGS[number]}", style="bold"))

    def line(self, text: str) -> None:
        """Plain text, indented; several lines keep their breaks. Never read as markup."""
        for part in text.splitlines() or [""]:
            self._console.print(Text(f"   {visible(part)}"))

    def warning(self, text: str) -> None:
        """A line that wants attention."""
        self._console.print(Text(f"   warning: {visible(text)}", style="yellow"))

    def live(self, text: str, *, permanent: bool) -> None:
        """The state of the run: replaces itself on a terminal; elsewhere only `permanent` ones are printed."""
        if self._console.is_terminal:
            if self._live is None:
                self._live = Live(console=self._console, refresh_per_second=4, transient=True)
                self._live.start()
            self._live.update(Text(f"   {text}"))
        elif permanent:
            self.line(text)

    @contextmanager
    def bar(self, what: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar; the block gets a function that is told how much of `total` has been done since the last call.

        Nothing is shown of what is done in a moment. Without a terminal there is a line every ten seconds instead.
        """
        shown = _Bar(self._console, what, total)
        try:
            yield shown.advance
        finally:
            shown.close()

    def _stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def close(self) -> None:
        """Give the terminal back."""
        self._stop()


class _Bar:
    """`tokenising train ━━━━━━╸━━━━ 61%  0:02`; not there before `_MOMENT` seconds have passed. Final."""

    def __init__(self, console: Console, what: str, total: int) -> None:
        self._console, self._what, self._total, self._done = console, what, total, 0
        self._next = time.monotonic() + _MOMENT
        self._bar: Progress | None = None

    def advance(self, done: int) -> None:
        self._done += done
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._done)
        elif time.monotonic() >= self._next and not self._console.quiet:
            self._show()

    def _show(self) -> None:
        if self._console.is_terminal:
            columns = TextColumn("   {task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(self._what, total=self._total, completed=self._done)
            self._bar.start()
        else:
            share = self._done / max(self._total, 1)
            self._console.print(Text(f"   {self._what}: {share:.0%} ({self._done:,} of {self._total:,})"))
            self._next = time.monotonic() + _BETWEEN_LINES

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


class Pace:
    """Tokens a second and time left, measured since the start or the resume."""

    def __init__(self, step: int, total_step: int) -> None:
        self._start, self._first, self._total, self._tokens = time.monotonic(), step, total_step, 0

    def add(self, tokens: int) -> None:
        """Count the tokens of a step."""
        self._tokens += tokens

    def tokens_per_second(self) -> float:
        """Mean since the start, evaluations included."""
        return self._tokens / max(time.monotonic() - self._start, 1e-9)

    def left(self, step: int) -> str:
        """Estimated time to the end of training, as minutes and seconds."""
        done = max(step - self._first, 1)
        seconds = int((time.monotonic() - self._start) / done * (self._total - step))
        return f"{seconds // 60}:{seconds % 60:02d}"
