"""SIGTERM and SIGINT: the first asks the run to stop at a good place, the second ends the process at once. No torch.

A signal that arrives inside a training step is noted, and the loop stops after the step. Anywhere else (data, loading,
evaluation, the last two steps) there is nothing to finish, and it is raised where it arrives. Files are whole or not
there, so ending at once does no damage.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from spectune.errors import Interrupted
from spectune.launch import launched, speaks

SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ECHO = 5.0  # seconds in which a second signal is the first one again, sent on by the launcher


class Stop:
    """What signals have asked for. Final."""

    def __init__(self, promise: str = "finishing this step, then saving") -> None:
        """`promise` is said of what happens after a signal was noted."""
        self._promise = promise
        self.signum: int | None = None
        """The signal that asked to stop, if one did."""
        self.patient = False
        """Signals are only noted, everywhere: there are other processes, which this one must not leave alone."""
        self.ending = False
        """The run is ending already: a launcher's signal on the way out is ignored."""
        self._raises = True
        self._noted = 0.0

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Inside, a first signal is only noted."""
        yield from self._mode(raises=False)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Inside, a first signal raises Interrupted; so does entering it after one was noted."""
        yield from self._mode(raises=True)

    def _mode(self, *, raises: bool) -> Iterator[None]:
        before, self._raises = self._raises, raises
        try:
            if raises and self.signum is not None and not self.patient:
                raise Interrupted(self.signum)
            yield
        finally:
            self._raises = before

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """The signal handler."""
        name = signal.Signals(signum).name
        if self.ending:
            return
        if self.signum is not None:
            if launched() and time.monotonic() - self._noted < _ECHO:
                return
            _say(f"{name} again: ending at once; what was saved is whole")
            os._exit(128 + signum)
        self.signum, self._noted = signum, time.monotonic()
        if self._raises and not self.patient:
            raise Interrupted(signum)
        if speaks():
            _say(f"{name}: {self._promise}; a second signal ends at once")


@contextmanager
def catch_signals(stop: Stop | None = None) -> Iterator[Stop]:
    """Handle the signals while the block runs; the handlers of before come back after it.

    A signal that the process was started to ignore (nohup) stays ignored. Outside the main thread, where Python allows
    no handlers, nothing is caught.
    """
    stop = stop or Stop()
    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        caught = [one for one in SIGNALS if signal.getsignal(one) not in (signal.SIG_IGN, None)]
        before = {one: signal.signal(one, stop.handle) for one in caught}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def ignore_signals() -> None:
    """In a process that is about to end and has something to say before."""
    for one in SIGNALS:
        signal.signal(one, signal.SIG_IGN)


def _say(line: str) -> None:
    """To standard error, past Python's buffers and locks, which the interrupted code may hold."""
    end = "\x1b[?25h" if sys.stderr is not None and sys.stderr.isatty() else ""  # a live line hides the cursor
    os.write(2, f"{end}\nspectune: {line}\n".encode())
