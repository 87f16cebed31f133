"""The `spectune` command: `main` runs it and turns every end into an exit status.

0: done. 1: a bug of ours, with its traceback. 2: a person's mistake, one line on standard error. 130, 143: stopped by
SIGINT, SIGTERM.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import typer

from spectune.cli.app import app
from spectune.cli.arguments import with_resume_value
from spectune.errors import ElsewhereError, Interrupted, UserError, one_line
from spectune.files import circumstance
from spectune.launch import alone, launched, rank, speaks
from spectune.training.signals import ignore_signals

__all__ = ["main"]

_SHARED = ("train", "evaluate", "predict")
"""Commands that several processes do together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit status."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without UTF-8 shows escapes rather than a traceback
            stream.reconfigure(errors="backslashreplace")
    arguments = with_resume_value(sys.argv[1:] if argv is None else argv)
    if not _has_work(arguments):
        return 0
    try:
        with _apart(arguments), _leaving() if argv is None else nullcontext():
            status = app(args=arguments, prog_name="spectune", standalone_mode=False)
    except ElsewhereError:
        return 2
    except UserError as error:
        return _refuse(str(error))
    except typer.TyperException as error:
        return _refuse(error.format_message()) if speaks() else 2
    except Interrupted as stop:
        if rank() == 0:
            print(f"spectune: {one_line(str(stop))}", file=sys.stderr)
        return stop.status
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except Exception as error:
        line = circumstance(error)
        return _report_bug(error) if line is None else _refuse(line)
    return status if isinstance(status, int) else 0


def _has_work(arguments: Sequence[str]) -> bool:
    """False in all processes of a launcher but the first, where the command is nothing that they share."""
    shared = bool(arguments) and arguments[0] in _SHARED and "--help" not in arguments
    return shared or not launched() or rank() == 0


@contextmanager
def _apart(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, a command that processes cannot share is done by one alone, which says so."""
    if not launched() or not arguments or arguments[0] in (*_SHARED, "plan") or arguments[0].startswith("-"):
        yield
        return
    print(f"spectune: note: one process does this alone; they share {', '.join(_SHARED)}", file=sys.stderr)
    with alone():
        yield


@contextmanager
def _leaving() -> Iterator[None]:
    """Where what is inside fails, the process ends: the launcher, which ends all others then, lets it say why."""
    try:
        yield
    except BaseException:
        if launched():
            ignore_signals()
        raise


def _refuse(message: str) -> int:
    print(f"spectune: error: {one_line(message)}", file=sys.stderr)
    return 2


def _report_bug(error: Exception) -> int:
    traceback.print_exception(error)
    print(f"spectune: bug: {type(error).__name__}; please report it with the lines above", file=sys.stderr)
    return 1
