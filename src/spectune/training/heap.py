"""Memory that training has freed and the C library still holds, given back before an evaluation takes its own."""

from __future__ import annotations

import ctypes
from typing import Any


def release_freed_memory() -> None:
    """Return freed heap pages to the system; does nothing where the C library has no `malloc_trim` (it is glibc's).

    Blocks of a training step and of an evaluation differ in size, so what one frees seldom fits the other: without
    this the peak of a run on a CPU is nearly the sum of both.
    """
    try:
        library: Any = ctypes.CDLL(None)
        library.malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # another system or C library
        return
