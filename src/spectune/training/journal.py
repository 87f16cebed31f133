"""`journal.jsonl`: append-only, one object per logged step, evaluation, allocation, phase change and save."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from spectune.errors import RunError
from spectune.files import circumstance, finite, write_all
from spectune.training.directory import RunDirectory


class Journal:
    """Appends events; a resumed run goes on where its checkpoint was taken, without double entries."""

    def __init__(self, path: Path) -> None:
        """Open the file as it is; a new run finds none. Nothing is buffered here, so nothing is lost by a kill."""
        self._path = path
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self._file = os.open(path, flags, 0o666)
        os.lseek(self._file, 0, os.SEEK_END)
        self.follower: Callable[[str, int, Mapping[str, Any]], None] | None = None
        """Told of every entry once it is written."""

    def rewind(self, position: int) -> bool:
        """Cut off what a resumed run will write again, all after byte `position`; false if the file is shorter."""
        whole = os.fstat(self._file).st_size >= position
        if whole:
            os.ftruncate(self._file, position)
        os.lseek(self._file, 0, os.SEEK_END)
        return whole

    def clear(self) -> None:
        """Begin anew: what an earlier run wrote goes."""
        self.rewind(0)

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append {"event", "step", …} and hand it to the operating system; a number that is not finite is null.

        Raises:
            RunError: it cannot be written; the line says how the run goes on.
        """
        line = json.dumps(finite({"event": event, "step": step, **fields}), ensure_ascii=False, allow_nan=False)
        with self._told():
            write_all(self._file, line.encode() + b"\n")
        if self.follower is not None:
            self.follower(event, step, fields)

    def flush(self) -> None:
        """Have all entries on the disk: before a checkpoint that counts on them. Raises as `write` does."""
        with self._told():
            os.fsync(self._file)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A full disk as a line of what to do."""
        try:
            yield
        except OSError as error:
            error.filename = str(self._path)  # a descriptor's errors name no file
            line = circumstance(error)
            if line is None:
                raise
            hint = RunDirectory(self._path.parent).resume_hint()
            raise RunError(f"the journal cannot be written ({line}); mend that, then {hint}") from error

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return os.lseek(self._file, 0, os.SEEK_CUR)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
