"""Counting what a piece of work dispatches to ATen, and how often it reads the device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from torch.utils._python_dispatch import TorchDispatchMode

READS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item", "masked_select", "unique")
"""Operations that make the host wait for the device."""


class Operations(TorchDispatchMode):
    """Counts what reaches ATen while it is entered, by name without overload."""

    def __init__(self) -> None:
        cast(Any, super()).__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        """All operations."""
        return self.count.total()

    @property
    def reads(self) -> int:
        """Those that read the device."""
        return sum(self.count[name] for name in READS)


def operations(work: Callable[[], Any]) -> Operations:
    """What one call dispatches."""
    seen = Operations()
    with seen:
        work()
    return seen
