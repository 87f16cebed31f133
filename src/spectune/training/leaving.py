"""Letting go of a process group after a failure, in a program that lives on.

A group's connections close when nothing holds the group any more, and that is what tells the other processes. A model
whose layers are shared out holds it, a traceback holds the model, and so does torch's memory of shapes.
"""

from __future__ import annotations

import gc
import sys
import traceback
from types import TracebackType


def let_go(error: BaseException) -> None:
    """Forget where `error` and what caused it came from, with the variables there."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            traceback.clear_frames(one.__traceback__)
            _cut(one.__traceback__)
            left += [one.__cause__, one.__context__]
    if "torch.distributed.tensor" in sys.modules:
        from torch.distributed.tensor import debug

        getattr(debug, "_clear_sharding_prop_cache", int)()
    gc.collect()


def _cut(entry: TracebackType | None) -> None:
    """Take a traceback apart: the closures that were running are held by it, whatever has been cleared."""
    while entry is not None:
        entry.tb_next, entry = None, entry.tb_next
