"""One of several processes, kept for many tasks so that libraries are imported once: a task a line in, a result out.

A task holds a configuration, a command or texts, the environment that a launcher would set, and where to go wrong.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from accelerate.state import PartialState
from tests.training.conftest import proof_in_this_process
from torch.distributed.tensor import DTensor

import spectune
from spectune.adapter import initialization
from spectune.cli import main as command
from spectune.data.prepare import texts_to_examples
from spectune.data.stream_loader import StreamLoader
from spectune.errors import DataError, Interrupted, UserError
from spectune.training import loop, saving
from spectune.training.parallel import Processes
from spectune.training.progress import Reporter

MARK = "RESULT "
loop_module: Any = loop  # their names are replaced below
saving_module: Any = saving


@dataclass
class Record:
    """What a run did, step by step."""

    live: list[list[int]] = field(default_factory=list)
    """Numbers of the live triplets, for each allocation."""
    sent: list[int] = field(default_factory=list)
    """Bytes given to `all_reduce` inside each step."""
    banks: list[int] = field(default_factory=list)
    """Bytes of all trainable parameters at the start of each step."""
    gradients: list[float] = field(default_factory=list)
    """Norms of the whole matrices' gradients that an informed start is made from."""
    held: list[int] = field(default_factory=list)
    """Numbers of the layers' frozen weights: in this process, and in all together; none where they are whole."""
    kinds: list[str] = field(default_factory=list)
    """Types of the parameters that are trained."""
    drawn: list[float] = field(default_factory=list)
    """A number that the random generator would give after each step."""


def perform(task: dict[str, Any]) -> dict[str, Any]:
    """Train as the task says; what came of it."""
    record, sent = Record(), [0]
    step_once, reduce_once, check_once = loop_module.training_step, dist.all_reduce, Processes.check_live

    def step(model: Any, engine: Any, *rest: Any, **options: Any) -> Any:
        record.banks.append(sum(p.numel() * p.element_size() for p in engine.parameters()))
        look(record, model, engine)
        before = sent[0]
        go_wrong(task, options["step"], engine)
        result = step_once(model, engine, *rest, **options)
        record.sent.append(sent[0] - before)
        with torch.random.fork_rng():
            record.drawn.append(torch.rand(()).item())
        return result

    def reduce(tensor: torch.Tensor, *rest: Any, **options: Any) -> Any:
        sent[0] += tensor.numel() * tensor.element_size()
        return reduce_once(tensor, *rest, **options)

    def check(self: Processes, keep: torch.Tensor, number: int) -> None:
        record.live.append(keep.nonzero().flatten().tolist())
        check_once(self, keep, number)

    def leading(gradient: torch.Tensor, rank: int) -> Any:
        record.gradients.append(gradient.norm().item())
        return leading_once(gradient, rank)

    def agree(self: Processes, wishes: list[int]) -> list[int]:
        passes[0] += 1
        go_wrong({"fault": task.get("fault_of_pass", (None, 0))}, passes[0], None)
        return agree_once(self, wishes)

    def windows(self: StreamLoader) -> Iterator[Any]:
        for number, window in enumerate(windows_once(self), start=1):
            if task.get("fault") == ["stream", number]:
                raise DataError("the stream has broken off")
            yield window

    leading_once, agree_once, passes = initialization.leading, Processes.agree, [0]
    windows_once = StreamLoader.__iter__
    with (
        patch.object(StreamLoader, "__iter__", windows),
        patch.object(initialization, "leading", leading),
        patch("spectune.training.finish.prove_reload", proof_in_this_process),
        patch.object(loop_module, "training_step", step),
        patch.object(dist, "all_reduce", reduce),
        patch.object(Processes, "check_live", check),
        patch.object(Processes, "agree", agree),
        patch.object(saving, "save_checkpoint", full_disk(task, saving_module.save_checkpoint)),
    ):
        return vars(record) | outcome(task)


def look(record: Record, model: Any, engine: Any) -> None:
    """How the parameters are held before a step."""
    sharded = [p for p in model.parameters() if isinstance(p, DTensor)]
    record.held = [sum(p.to_local().numel() for p in sharded), sum(p.numel() for p in sharded)]
    record.kinds = sorted({type(p.data).__name__ for p in engine.parameters()})


def outcome(task: dict[str, Any]) -> dict[str, Any]:
    """The end of a run, as JSON values."""
    try:
        result = spectune.train(task["config"], resume=task.get("resume", False), reporter=Reporter(quiet=True))
    except UserError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Interrupted as stopped:
        return {"error": "Interrupted", "status": stopped.status, "message": str(stopped)}
    return {"error": None, "summary": result.summary}


def use(task: dict[str, Any]) -> dict[str, Any]:
    """A command's status and what it said, or the outputs of texts by each way of the Python interface."""
    look = Processes.stop_between_batches

    def between(self: Processes, rows: int) -> None:
        if "fault" in task:
            os.kill(os.getpid(), getattr(signal, task["fault"]))
        look(self, rows)

    said, complained = io.StringIO(), io.StringIO()
    with (
        patch.object(Processes, "stop_between_batches", between),
        contextlib.redirect_stdout(said),
        contextlib.redirect_stderr(complained),
    ):
        if "argv" in task:
            status = command(task["argv"])
            return {"status": status, "stdout": said.getvalue(), "stderr": complained.getvalue()}
        return written(task)


def written(task: dict[str, Any]) -> dict[str, Any]:
    """Outputs of the task's texts."""
    try:
        loaded = spectune.load(task["adapter"])
        examples = texts_to_examples(task["texts"], loaded.settings.data)
        return {
            "path": spectune.predict(task["adapter"], task["texts"]),
            "loaded": spectune.predict(loaded, task["texts"]),
            "method": loaded.predict(examples),
            "labels": [label for label, _ in spectune.classify(loaded, task["texts"])],
        }
    except UserError as error:
        return {"error": type(error).__name__, "message": str(error)}


def go_wrong(task: dict[str, Any], step: int, engine: Any) -> None:
    """The fault that the task asks for in this process at this step."""
    kind, at = task.get("fault", (None, 0))
    if step == at and kind in ("SIGTERM", "SIGKILL"):
        os.kill(os.getpid(), getattr(signal, kind))
    if step == at and kind == "drift":
        engine.averages.sensitivity[0].copy_(torch.rand_like(engine.averages.sensitivity[0]) * 1e6)
    if step == at and kind == "memory":
        raise_out_of_memory()


def raise_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory")


def full_disk(task: dict[str, Any], save: Callable[..., None]) -> Callable[..., None]:
    """`save_checkpoint`, on a disk that is full where the task says so."""

    def failing(*args: Any) -> None:
        if task.get("fault", (None, 0))[0] == "disk":
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args)

    return failing


def main() -> None:
    torch.set_num_threads(1)
    out = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        task = json.loads(line)
        os.environ.update(task["environment"])
        if dist.is_initialized():  # accelerate's group of one, of a run that was alone
            dist.destroy_process_group()
        PartialState._reset_state()
        out.write(MARK + json.dumps(perform(task) if "config" in task else use(task)) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
