"""The processes of one run: each holds the whole model and adapter, and reads its share of the rows.

What passes between them goes through `Processes`, but for the layers that `sharding` gathers. With one process every
method returns at once. What a method exchanges must be exchanged by all processes, in the same order: so it is called
where all of them pass, never under a condition that only one of them knows.

Signals are only noted while several processes run: raised in the middle of a collective they would leave the others
waiting. They are looked at where something is exchanged anyway.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from spectune.errors import ElsewhereError, Interrupted, RunError, UserError, first_line
from spectune.launch import rank, said_once, world_size
from spectune.training.leaving import let_go
from spectune.training.meeting import meet
from spectune.training.signals import Stop

T = TypeVar("T")

_PARTING = 10.0  # seconds that leaving a group may take after a failure
_GONE = re.compile("peer|[Bb]roken pipe|[Tt]imed out|timeout")
_reunions = count()
"""Numbers of the runs in a group of the caller's, whose store lives on."""

_SPOKEN, _ELSEWHERE = "spectune/spoken", "another process of the run says what is wrong"


class LostError(Exception):
    """A collective failed: another process is gone."""


class Processes:
    """One process's view of all processes of the run. Final."""

    def __init__(self, rank: int = 0, size: int = 1, stop: Stop | None = None) -> None:
        """`rank` is this process, from 0; `size` their number."""
        self.rank, self.size, self._stop = rank, size, stop or Stop()

    @property
    def several(self) -> bool:
        """Whether there are others."""
        return self.size > 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    # ---- tensors

    def reduce(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over all processes, in place: one collective each; all get the same bits."""
        if self.several:
            with collective():
                for tensor in tensors:
                    dist.all_reduce(tensor)

    @torch.no_grad()
    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Give each tensor the values it has in process 0."""
        if self.several:
            with collective():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), src=0)

    def highest(self, number: int | None) -> int | None:
        """The highest of all processes' numbers; None where none has one. Host memory only: no device waits."""
        if not self.several:
            return number
        box = torch.tensor([-1 if number is None else number])
        with collective():
            dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return None if box.item() < 0 else int(box.item())

    def agree(self, wishes: Sequence[int]) -> list[int]:
        """The highest of all processes' numbers, 0 or more, place by place; through host memory. Raises Interrupted, in
        all processes, where a signal asked one of them to stop."""
        box = torch.tensor([*wishes, self._stop.signum or 0])
        if self.several:
            with collective():
                dist.all_reduce(box, op=dist.ReduceOp.MAX)
        *highest, asked = box.tolist()
        if asked:
            raise Interrupted(asked)
        return highest

    # ---- objects

    def gather(self, value: T) -> list[T]:
        """The value of each process, by rank."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.size
        with collective():
            dist.all_gather_object(values, value)
        return cast("list[T]", values)

    def together(self, work: Callable[[], T]) -> T:
        """Do `work` on every process. It holds no collective; where one of them fails or is to stop, all end.

        Raises:
            Interrupted: a signal asked a process to stop.
            ElsewhereError: another process failed, and says how.
        """
        if not self.several:
            return work()
        value, raised = _tried(work)
        signums = [one.signum for one in (raised,) if isinstance(one, Interrupted)]
        failure = None if raised is None or signums else _message(raised)
        asked = max([self._stop.signum or 0, *signums])
        for number, (other, signum) in enumerate(self.gather((failure, asked))):
            if other is not None:
                raise cast("Exception", raised) if number == self.rank else ElsewhereError(other)
            asked = max(asked, signum)
        if asked:
            raise Interrupted(asked)
        return cast("T", value)

    def first(self, work: Callable[[], T]) -> T:
        """Do `work`, which holds no collective, on process 0 alone, and give its value to all; the others wait.

        Raises:
            ElsewhereError: process 0 failed, and says how.
        """
        if not self.several:
            return work()
        value, raised = _tried(work) if self.is_first else (None, None)
        box: list[Any] = [(value, None if raised is None else _message(raised))]
        with collective():
            dist.broadcast_object_list(box, src=0)
        if raised is not None:
            raise raised
        value, failure = box[0]
        if failure is not None:
            raise ElsewhereError(failure)
        return cast("T", value)

    def stop_between_batches(self, _rows: int) -> None:
        """Raises Interrupted if a signal asked this process to stop; called inside `together`."""
        if self._stop.signum is not None:
            raise Interrupted(self._stop.signum)

    # ---- checks

    def check_equal(self, facts: Mapping[str, Any]) -> None:
        """Raises RunError, with the first name that differs, where processes run different things."""
        for number, others in enumerate(self.gather(dict(facts)) if self.several else []):
            for name in dict.fromkeys([*facts, *others]):
                if facts.get(name) != others.get(name):
                    raise RunError(
                        f"the processes do not run the same: {name} differs between process "
                        f"{min(number, self.rank)} and process {max(number, self.rank)}; start all of them with the "
                        "same run file, data and versions"
                    )

    def check_live(self, keep: Tensor, step: int) -> None:
        """Compare the live triplets of all processes by a hash, which reads the device; nothing with one process.

        Raises:
            RunError: they differ, so the processes have drifted apart.
        """
        if not self.several:
            return
        digest = hashlib.sha256(keep.cpu().numpy().tobytes()).hexdigest()
        if len(set(self.gather(digest))) > 1:
            raise RunError(
                f"the processes keep different triplets at step {step:,}: their hardware or libraries do not compute "
                "the same numbers; run on machines of one kind, and go on from the last checkpoint with --resume"
            )


ALONE = Processes()
"""Of a run that was started by itself."""


@contextmanager
def joined(use_cpu: bool, stop: Stop, hint: Callable[[], str]) -> Iterator[Processes]:
    """The processes of this run, which meet here and part at the end of the block.

    Args:
        use_cpu: no GPU is used, whatever there is.
        stop: from here on signals are only noted.
        hint: how to go on after a process has died.

    Raises:
        ConfigError: a back end or a device is missing.
        RunError: the processes do not reach each other, or one has died.
        ElsewhereError: another process has said what is wrong.
    """
    if world_size() == 1:
        yield ALONE
        return
    with said_once():
        started = meet(use_cpu)
    stop.patient, ended = True, False
    spoken = _SPOKEN if started else f"{_SPOKEN}/{next(_reunions)}"
    try:
        yield Processes(rank(), world_size(), stop)
        with collective():
            dist.all_reduce(torch.zeros(1))  # the launcher ends all when the first one leaves
        ended = True
    except (ElsewhereError, Interrupted):
        stop.ending = True
        raise
    except LostError as error:
        stop.ending, first = True, _may_speak(spoken)
        let_go(error)
        if first:
            raise RunError(f"another process of the run has ended{_reason(error)}; {hint()}") from None
        raise ElsewhereError(_ELSEWHERE) from None
    except Exception as error:  # a mistake or a bug: said by one process, the first
        stop.ending, first = True, _may_speak(spoken)
        if isinstance(error, UserError):  # of a bug, where it came from is worth more
            let_go(error)
        if first:
            raise
        raise ElsewhereError(_ELSEWHERE) from None
    finally:
        if started:
            _part(ended)


def _part(ended: bool) -> None:
    """Leave the group. After a failure NCCL may wait for processes that wait for this one to be gone."""
    if ended:
        dist.destroy_process_group()
        return
    leaving = threading.Thread(target=dist.destroy_process_group, daemon=True)
    leaving.start()
    leaving.join(_PARTING)


def _reason(error: LostError) -> str:
    """What a collective failed of, in brackets; nothing where it says only that the other one is gone."""
    text = first_line(error)
    return "" if _GONE.search(text) else f" ({text})"


def _may_speak(key: str) -> bool:
    """Whether this process is the first to say what went wrong. Where the store died with a process: it says so too."""
    try:
        store: Any = dist.distributed_c10d._get_default_store()
        return bool(store.add(key, 1) == 1)
    except RuntimeError:
        return True


@contextmanager
def collective() -> Iterator[None]:
    """Around a collective: a failure is a `LostError`."""
    try:
        yield
    except RuntimeError as error:
        raise LostError(first_line(error)) from error


def _tried(work: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    try:
        return work(), None
    except (Exception, Interrupted) as error:
        return None, error


def _message(error: BaseException) -> str:
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {first_line(error)}"
