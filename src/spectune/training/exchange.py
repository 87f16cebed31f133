"""Functions of another library, replaced by ours for a while.

Models call them by their names in a module: exchanged there, they reach all that calls them, and nothing afterwards.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


class Exchange:
    """Ours in the place of a module's functions, until the last of those that are inside, threads or not, has left."""

    def __init__(self, module: ModuleType, **functions: Callable[..., Any]) -> None:
        """
        Args:
            module: where the functions are looked up by name at every call.
            functions: ours, by these names.
        """
        self._module, self._functions = module, functions
        self._theirs: dict[str, Callable[..., Any]] = {}
        self._lock, self._inside = threading.Lock(), 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """While in here, ours are called."""
        with self._lock:
            if self._inside == 0:
                self._theirs = {name: getattr(self._module, name) for name in self._functions}
                self._put(self._functions)
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    self._put(self._theirs)

    def _put(self, functions: dict[str, Callable[..., Any]]) -> None:
        for name, function in functions.items():
            setattr(self._module, name, function)
