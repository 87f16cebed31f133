"""`journal.jsonl`: append-only, one object per logged step, evaluation, allocation, phase change and save."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Journal:
    """Appends events; a resumed run goes on where its checkpoint was taken, without double entries."""

    def __init__(self, path: Path) -> None:
        """Open the file as it is; a new run finds none."""
        self._file = path.open("r+b" if path.exists() else "wb")
        self._file.seek(0, 2)

    def rewind(self, position: int) -> None:
        """Cut off what a resumed run will write again: all after byte `position`."""
        self._file.truncate(position)
        self._file.seek(position)

    def write(self, event: str, step: int, **fields: Any) -> None:
        """Append {"event", "step", …} and hand it to the operating system."""
        line = json.dumps({"event": event, "step": step, **fields}, ensure_ascii=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
