"""One process at a time writes into a run directory. The lock dies with its process. Imports no torch."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spectune.errors import RunError

NAME = ".lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS)


@contextmanager
def locked(directory: Path) -> Iterator[bool]:
    """Hold the directory's lock while the block runs; false where the system or the file system has no locks.

    The lock is the kernel's (flock) on the file `.lock`, which stays: a file alone means nothing.

    Raises:
        RunError: another process holds it; says which.
    """
    handle = os.open(directory / NAME, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    try:
        held = _take(handle, directory)
        if held:
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield held
    finally:
        os.close(handle)


def _take(handle: int, directory: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, 200, 0).decode(errors="replace") or "another process"
        raise RunError(
            f"{holder} is training in {directory}; wait for it, stop it, or name another train.output_dir"
        ) from None
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True
