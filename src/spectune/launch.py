"""Which of several processes this is: what torchrun and accelerate launch write into the environment. No torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from spectune.errors import ConfigError, ElsewhereError, UserError

_NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_by_itself = ContextVar("_by_itself", default=False)


def world_size() -> int:
    """The number of processes that work together; 1 for one that was started by itself, and inside `alone`.

    Raises:
        ConfigError: `WORLD_SIZE` is no number of processes.
    """
    size = 1 if _by_itself.get() else _number("WORLD_SIZE", 1)
    if size < 1:
        raise ConfigError(f"WORLD_SIZE is {size}; it is the number of processes, at least 1")
    return size


def rank() -> int:
    """This process, from 0."""
    return _number("RANK", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """This process among those of its machine, from 0."""
    return _number("LOCAL_RANK", 0) if world_size() > 1 else 0


def local_size() -> int:
    """The number of processes on this machine, where the launcher tells; else 0."""
    return _number("LOCAL_WORLD_SIZE", 0) if world_size() > 1 else 0


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works by itself, whatever started it: for what one of several processes does alone."""
    before = _by_itself.set(True)
    try:
        yield
    finally:
        _by_itself.reset(before)


def launched() -> bool:
    """Whether a launcher has started this process as one of several, and has said all that there is to say."""
    try:
        return world_size() > 1 and all(name in os.environ for name in _NEEDED) and rank() >= 0
    except ConfigError:
        return False


def check_launch() -> None:
    """Refuse a process that is told of others, but not how to reach them.

    Raises:
        ConfigError: names what is missing.
    """
    missing = [name for name in _NEEDED if name not in os.environ]
    if world_size() > 1 and missing:
        raise ConfigError(
            f"WORLD_SIZE is {world_size()} and {', '.join(missing)} not set; start the processes with torchrun or "
            "accelerate launch, or unset WORLD_SIZE"
        )
    if not 0 <= rank() < world_size():
        raise ConfigError(f"RANK is {rank()} of {world_size()} processes; they count from 0")


def speaks() -> bool:
    """Whether this process says what all processes of its machine find wrong alike, before they have met."""
    try:
        return local_rank() == 0
    except ConfigError:
        return True


@contextmanager
def said_once() -> Iterator[None]:
    """For what all processes do alike before they meet: a mistake is said by the first one of each machine alone."""
    try:
        yield
    except UserError as error:
        if speaks():
            raise
        raise ElsewhereError(str(error)) from None


def _number(name: str, otherwise: int) -> int:
    value = os.environ.get(name, "")
    try:
        return int(value) if value.strip() else otherwise
    except ValueError:
        raise ConfigError(f"{name} is {value!r}, which is no number") from None
