"""Writing so that a reader finds the old or the new, never half: temporary names, flushes, renames.

A name that ends in `.spectune-partial` is being written, one that ends in `.spectune-old` is being removed; `tidy`
clears what a killed process left of both. A link in the place of a file is replaced, never written through; a device
is.
"""

from __future__ import annotations

import ctypes
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from spectune.errors import RunError

PARTIAL, OLD = ".spectune-partial", ".spectune-old"  # no name that a person would give

_CIRCUMSTANCES = {
    errno.EACCES,
    errno.EBUSY,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EISDIR,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ESTALE,
}
_AT_THIS_DIRECTORY, _EXCHANGE = -100, 2  # of Linux's renameat2


def circumstance(error: BaseException) -> str | None:
    """One line about a failure that is the machine's state and no slip in our code (full disk, …); else None."""
    if isinstance(error, OSError) and error.errno in _CIRCUMSTANCES:
        return f"{error.filename or 'the machine'}: {error.strerror}{_remedy(error.errno)}"
    number = re.search(r"\(os error (\d+)\)", str(error))  # safetensors reports the system's errors in its own class
    if type(error).__name__ == "SafetensorError" and number and int(number[1]) in _CIRCUMSTANCES:
        return f"writing tensors: {os.strerror(int(number[1]))}{_remedy(int(number[1]))}"
    return None


def _remedy(number: int | None) -> str:
    return "; make room there, or name another place" if number in (errno.ENOSPC, errno.EDQUOT) else ""


def finite(content: Any) -> Any:
    """JSON values with null for NaN and infinity, which JSON cannot spell: for files that other programs read."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    return [finite(value) for value in content] if isinstance(content, list | tuple) else content


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one piece (temporary file, flush, rename)."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file in one piece."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in one piece."""
    if _is_stream(path):
        _append(path, content)
        return
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")  # others may write the same file
    try:
        write_new(partial, content)
        os.replace(partial, path)
    except BaseException as error:
        if isinstance(error, OSError):
            error.filename = str(path)  # what was asked for, not the name it has for a moment
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    flush_directory(path.parent)


def _append(path: Path, content: bytes) -> None:
    """To a stream as it stands: what a shell has redirected to a file is not cut to nothing first."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        write_all(handle, content)
    finally:
        os.close(handle)


def _is_stream(path: Path) -> bool:
    """Whether a rename would put a file in the place of a device, a pipe, or what `/dev` has for the output."""
    return path.parent == Path("/dev") or (path.exists() and not path.is_file() and not path.is_dir())


def write_new(path: Path, content: bytes) -> None:
    """Write a file that is on the disk when this returns; what had its name before is removed, not written through."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        write_all(handle, content)
        os.fsync(handle)
    finally:
        os.close(handle)


def write_all(handle: int, content: bytes) -> None:
    """All bytes to an open file; the system may take them in pieces."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def can_be_written(path: Path) -> bool:
    """Whether a file or directory of this name could take its place now; asked before the work that it would hold."""
    return os.access(path if _is_stream(path) else path.parent, os.W_OK)


def read_json(path: Path) -> Any:
    """Raises RunError for a file that is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path} is missing") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from None


@contextmanager
def replaced_directory(final: Path) -> Iterator[Path]:
    """A temporary directory that takes the place of `final` when the block ends well; else `final` stays as it is.

    Where the system can swap two names at once (Linux), there is an old or a new `final` at every instant. The parent
    must exist: a directory that has vanished under a run is an error, not made anew.
    """
    partial = final.with_name(final.name + PARTIAL)
    try:
        remove(partial)
        os.mkdir(partial)
    except OSError as error:
        error.filename = str(final)
        raise
    try:
        yield partial
        for directory in {path.parent for path in partial.rglob("*")} | {partial}:
            flush_directory(directory)
        _put_in_place(partial, final)
    except BaseException:
        with suppress(OSError):
            remove(partial)
        raise


def remove(path: Path) -> None:
    """Delete a directory, file or link; a directory under another name first, so that no half of it is ever seen."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        doomed = path
        if path.suffix not in (PARTIAL, OLD):
            doomed = path.with_name(path.name + OLD)
            remove(doomed)
            os.replace(path, doomed)
        shutil.rmtree(doomed)


def tidy(directory: Path) -> None:
    """Clear what a killed process left half written or half removed; an old state without a new one comes back."""
    for path in [*directory.glob(f"*{OLD}"), *directory.glob(f"*{PARTIAL}")]:
        final = path.with_suffix("")
        between_two_renames = not final.exists() and final.with_name(final.name + PARTIAL).exists()
        if path.suffix == OLD and between_two_renames:
            os.replace(path, final)
        else:
            remove(path)


def directory_size(directory: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def flush_directory(directory: Path) -> None:
    """Have the names in a directory on the disk, where the file system knows how to."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


def _put_in_place(partial: Path, final: Path) -> None:
    if not final.exists():
        os.replace(partial, final)
    elif _exchange(partial, final):
        flush_directory(final.parent)
        remove(partial)
    else:
        old = final.with_name(final.name + OLD)
        remove(old)
        os.replace(final, old)
        try:
            os.replace(partial, final)
        except BaseException:
            os.replace(old, final)
            raise
        flush_directory(final.parent)
        remove(old)
    flush_directory(final.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step; false where the system or the file system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    here = ctypes.c_int(_AT_THIS_DIRECTORY)
    result: int = swap(here, os.fsencode(one), here, os.fsencode(other), ctypes.c_uint(_EXCHANGE))
    return result == 0
