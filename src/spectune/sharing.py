"""Commands that several processes do together, seen from where torch may not be imported yet.

None stands for the processes of a command that was started by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from spectune.launch import world_size

if TYPE_CHECKING:
    from spectune.evaluation.evaluate import Sharing
    from spectune.evaluation.trained import TrainedAdapter
    from spectune.training.parallel import Processes

T = TypeVar("T")


@contextmanager
def meeting() -> Iterator[Processes | None]:
    """The processes that share the rows of an evaluation or prediction; they meet here, and part at the block's end."""
    if world_size() == 1:
        yield None
        return
    from spectune.training.spread import met

    with met() as processes:
        yield processes


@contextmanager
def shared(adapter: TrainedAdapter) -> Iterator[Sharing]:
    """The processes that call a method of an adapter which each of them has loaded."""
    from spectune.evaluation.evaluate import Whole
    from spectune.training.spread import Spread, check_alike

    with meeting() as processes:
        if processes is None:  # inside `launch.alone`
            yield Whole()
            return
        check_alike(processes, adapter)
        yield Spread(processes)


def first(processes: Processes | None, work: Callable[[], T]) -> T:
    """`Processes.first`, where there are several."""
    return work() if processes is None else processes.first(work)


def together(processes: Processes | None, work: Callable[[], T]) -> T:
    """`Processes.together`, where there are several."""
    return work() if processes is None else processes.together(work)
