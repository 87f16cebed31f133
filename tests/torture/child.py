"""A run in a process of its own, which may be killed. Forked from a process that has imported everything already.

`LEDGER` is a small shared file in which the child notes where it is, so that the parent knows what a kill hit.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tests.torture import world
from tests.training.conftest import proof_in_this_process

import spectune
from spectune import api
from spectune.cli import main
from spectune.training import finish, run, saving
from spectune.training.directory import step_of
from spectune.training.loop import Loop
from spectune.yaml_text import write_yaml

# what transformers would import at the first model of each kind
PRELOADED = (transformers.T5ForConditionalGeneration, transformers.BartForConditionalGeneration, spectune.train, run)
_LAYOUT = struct.Struct("4i")
BEGUN, SAVING, SAVED, TRAINING = range(4)
"""Whether the command has begun; the step being saved, 0 outside of a save; the last step saved; whether it trains."""


class Ledger:
    """Four numbers shared with a child; they outlive it."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_LAYOUT.size))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)

    def __getitem__(self, place: int) -> int:
        numbers: tuple[int, ...] = _LAYOUT.unpack(self._memory[:])
        return numbers[place]

    def __setitem__(self, place: int, value: int) -> None:
        numbers = list(_LAYOUT.unpack(self._memory[:]))
        numbers[place] = value
        self._memory[:] = _LAYOUT.pack(*numbers)


def server() -> multiprocessing.context.ForkServerContext:
    """The process to fork from; it has started no thread."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.torture.child"])
    return context


def start(
    settings: world.Settings, place: Path, *, resume: bool, prepare: Callable[..., None] | None = None, **options: Any
) -> Any:
    """Start a run through the command's entry point; returns the process.

    Args:
        place: directory for the ledger and the child's output.
        prepare: called in the child with `options`, before the command.
    """
    process = server().Process(target=_run, args=(settings, place, resume, prepare, options))
    process.start()
    return process


def _run(
    settings: world.Settings, place: Path, resume: bool, prepare: Callable[..., None] | None, options: Any
) -> None:
    torch.set_num_threads(1)
    for number, name in ((1, "stdout.txt"), (2, "stderr.txt")):
        handle = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    replaced: Any = finish
    replaced.prove_reload = proof_in_this_process
    ledger = Ledger(place / "ledger")
    _note_saves(ledger)
    _note_beginnings(ledger)
    run_file = place / "given.yaml"
    run_file.write_text(write_yaml(settings), encoding="utf-8")
    if prepare is not None:
        prepare(**options)
    status = main(["train", str(run_file), *(["--resume"] if resume else [])])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _note_saves(ledger: Ledger) -> None:
    module: Any = saving
    save_checkpoint = module.save_checkpoint

    def noted(directory: Path, *rest: Any) -> None:
        ledger[SAVING] = step_of(directory)
        save_checkpoint(directory, *rest)
        ledger[SAVED], ledger[SAVING] = step_of(directory), 0

    module.save_checkpoint = noted


def _note_beginnings(ledger: Ledger) -> None:
    interface: Any = api
    loop_class: Any = Loop
    outline_run, enter = interface.outline_run, loop_class.train

    def outlined(*rest: Any, **named: Any) -> Any:
        ledger[BEGUN] = 1
        return outline_run(*rest, **named)

    def trained(loop: Loop) -> None:
        ledger[TRAINING] = 1
        enter(loop)
        ledger[TRAINING] = 0

    interface.outline_run = outlined
    loop_class.train = trained


def said(place: Path) -> str:
    """What the child wrote to standard error."""
    return (place / "stderr.txt").read_text("utf-8", errors="replace")
