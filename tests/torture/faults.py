"""A full disk, a read or write error, or the end of the process, at every write, flush, rename and creation in turn."""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.child import said, start
from tests.torture.world import World, damage, directory, outcome, settings, train

from spectune import files, manifest
from spectune.training import journal
from spectune.training.directory import list_checkpoints

KINDS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO, "exit": 0}
EXIT = 77
# Few steps: what is tried is the writing.
SHORT: dict[str, dict[str, Any]] = {
    "adapter": {"tinit": 1, "tfinal": 1, "deltaT": 1},
    "train": {"max_steps": 4, "save_steps": 2, "save_total_limit": 1, "logging_steps": 2},
    "evaluation": {"eval_strategy": "no", "eval_steps": None},
}


class Faulty:
    """Stands for the module `os` in what we write with; fails at operation `at`."""

    def __init__(self, at: int, kind: str, count: Path) -> None:
        self._at, self._kind, self._count, self._done = at, kind, count, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, handle: int, content: Any) -> int:
        """Half of the bytes arrive before the fault."""
        if self._done + 1 == self._at:
            os.write(handle, bytes(content)[: len(content) // 2])
        self.operation()
        return os.write(handle, content)

    def fsync(self, handle: int) -> None:
        self.operation()
        os.fsync(handle)

    def replace(self, one: Any, other: Any) -> None:
        self.operation()
        os.replace(one, other)

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        self.operation()
        os.mkdir(path, mode)

    def operation(self) -> None:
        """One more; the fault, if it is this one's turn."""
        self._done += 1
        if self._at == 0:
            self._count.write_text(str(self._done))
        elif self._done == self._at:
            if self._kind == "exit":
                os._exit(EXIT)
            number = KINDS[self._kind]
            raise OSError(number, os.strerror(number))


def install(at: int, kind: str, root: str, count: str) -> None:
    """In the child: every operation on files of the run counts, those of other libraries by opening for writing."""
    faulty: Any = Faulty(at, kind, Path(count))
    modules: list[Any] = [files, manifest, journal]
    for module in modules:
        module.os = faulty
    exchange = files._exchange

    def exchanged(one: Path, other: Path) -> bool:
        faulty.operation()
        return exchange(one, other)

    files._exchange = exchanged

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not str(arguments[0]).startswith(root) or not isinstance(arguments[1], str):
            return  # os.open, which has no mode, is ours
        if set(arguments[1]) & set("wax+"):
            faulty.operation()

    sys.addaudithook(opened)


@dataclass
class Count:
    """Operations of a run, faults tried, and what went wrong."""

    operations: int = 0
    tried: int = 0
    failures: list[str] = field(default_factory=list)


def count_operations(world: World, place: Path) -> tuple[int, Any]:
    """How many operations the short run does, and what it leaves."""
    run = settings(world, "t5", place / "counted", **SHORT)
    options = {"at": 0, "kind": "exit", "root": str(directory(run)), "count": str(place / "operations")}
    process = start(run, place, resume=False, prepare=install, **options)
    process.join()
    assert process.exitcode == 0, said(place)
    return int((place / "operations").read_text()), outcome(run)


def fault_runs(world: World, place: Path, operations: Iterable[int] | None, kinds: Iterable[str]) -> Count:
    """Fail at each of `operations` (None: at all of them) in each way; then resume without faults and compare."""
    total, expected = count_operations(world, place)
    count = Count(operations=total)
    chosen = range(1, total + 1) if operations is None else [1 + at % total for at in operations]
    for at in chosen:
        for kind in kinds:
            count.tried += 1
            wrong = _one_fault(world, place / "faulty", at, kind, expected)
            count.failures += [f"{kind} at operation {at}: {line}" for line in wrong]
    return count


def _one_fault(world: World, place: Path, at: int, kind: str, expected: Any) -> list[str]:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    run = settings(world, "t5", place / "run", **SHORT)
    root = directory(run)
    process = start(
        run, place, resume=False, prepare=install, at=at, kind=kind, root=str(root), count=str(place / "operations")
    )
    process.join()
    wrong = damage(root)
    output = said(place)
    # A checkpoint too many that cannot be deleted is a warning; anything else ends the run with a line.
    allowed = {EXIT} if kind == "exit" else {2, 0}
    if process.exitcode not in allowed or "Traceback" in output:
        wrong.append(f"ended with {process.exitcode}: {output[-300:]}")
    train(run, resume=bool(list_checkpoints(root / "checkpoints")))
    if outcome(run) != expected:
        wrong.append("the run ends otherwise")
    leftovers = [path.name for path in root.rglob("*") if path.suffix in (files.PARTIAL, files.OLD)]
    return [*wrong, *(f"{name} is left over" for name in leftovers)]
