"""SIGKILL to one of two processes at random instants: both end, nothing is damaged, and going on ends equal."""

from __future__ import annotations

import os
import random
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.child import BEGUN, TRAINING, Ledger, said, start
from tests.torture.world import World, damage, directory, outcome, settings

from spectune.training.directory import list_checkpoints

PROCESSES = 2
MOST_SECONDS = 60.0  # that the process left may take to notice
FREQUENT: dict[str, Any] = {"save_steps": 2, "gradient_accumulation_steps": 1}


@dataclass
class Count:
    """What the kills hit."""

    kills: int = 0
    of_the_first: int = 0
    while_training: int = 0
    resumed: int = 0
    slowest_end: float = 0.0
    """Seconds from a kill to the end of the process left."""
    failures: list[str] = field(default_factory=list)


def parallel_runs(world: World, place: Path, kills: int, seed: int) -> Count:
    """Kill one process each of `kills` runs, somewhere between their meeting and their end; resume and compare."""
    count, chance, references, lengths = Count(), random.Random(seed), dict[str, Any](), dict[str, float]()
    kinds = ("t5", "bart")[: max(1, kills // 2)]
    for kind in kinds:
        whole = settings(world, kind, place / kind / "run", train=FREQUENT)
        group = _start(whole, place / kind, resume=False)
        _wait_for_the_meeting(group, place / kind)
        met = time.monotonic()
        if _ends(group) != [0] * PROCESSES:
            return Count(failures=[f"{kind}, not killed: {said(place / kind / 'rank-0')[-300:]}"])
        references[kind], lengths[kind] = outcome(whole), time.monotonic() - met
    number = 0
    while count.kills < kills:
        kind, own, number = kinds[number % len(kinds)], place / f"run-{number}", number + 1
        run = settings(world, kind, own / "run", train=FREQUENT)
        wrong = _one_kill(run, own, chance.randrange(PROCESSES), chance.uniform(0.0, lengths[kind]), count)
        resume = bool(list_checkpoints(directory(run) / "checkpoints"))
        count.resumed += resume
        ended = _ends(_start(run, own, resume=resume))
        if ended != [0] * PROCESSES:
            wrong.append(f"going on ended with {ended}: {said(own / 'rank-0')[-300:]}")
        elif outcome(run) != references[kind]:
            wrong.append("the run ends otherwise")
        count.failures += [f"run {number}, {kind}: {line}" for line in wrong]
    return count


def _one_kill(run: Any, own: Path, rank: int, wait: float, count: Count) -> list[str]:
    """Kill process `rank`, `wait` seconds after all have met; says what is wrong with what is left."""
    group = _start(run, own, resume=False)
    _wait_for_the_meeting(group, own)
    group[rank].join(wait)
    if not group[rank].is_alive():  # it was faster
        return [] if _ends(group) == [0] * PROCESSES else [f"not killed, and ended otherwise: {said(own / 'rank-0')}"]
    count.while_training += Ledger(own / f"rank-{rank}" / "ledger")[TRAINING]
    group[rank].kill()
    killed = time.monotonic()
    ended = _ends(group)
    count.kills += 1
    count.of_the_first += rank == 0
    count.slowest_end = max(count.slowest_end, round(time.monotonic() - killed, 2))
    wrong = damage(directory(run)) if directory(run).exists() else []
    for other, status in enumerate(ended):
        output = said(own / f"rank-{other}")
        if other == rank:
            continue
        if status == 2:
            if output.count("spectune: error: another process of the run has ended") != 1 or "Traceback" in output:
                wrong.append(f"process {other} says {output[-300:]}")
        elif status != 0:  # 0: it had parted from the other before
            wrong.append(f"process {other} ended with {status}: {output[-300:]}")
    return wrong


def _start(run: Any, own: Path, *, resume: bool) -> list[Any]:
    """One process for each rank; each has a directory of its own for what it says."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    group = []
    for rank in range(PROCESSES):
        place = own / f"rank-{rank}"
        place.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(place / "ledger")
        ledger[BEGUN] = ledger[TRAINING] = 0
        group.append(start(run, place, resume=resume, prepare=as_launched, rank=rank, port=port))
    return group


def as_launched(rank: int, port: int) -> None:
    """The environment that a launcher gives process `rank`."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _wait_for_the_meeting(group: list[Any], own: Path) -> None:
    while any(not Ledger(own / f"rank-{rank}" / "ledger")[BEGUN] for rank in range(PROCESSES)):
        if not all(process.is_alive() for process in group):
            return
        time.sleep(0.002)


def _ends(group: list[Any]) -> list[int | None]:
    """Exit statuses; None of a process that had to be killed because it did not end."""
    end = time.monotonic() + MOST_SECONDS
    statuses = []
    for process in group:
        process.join(max(0.1, end - time.monotonic()))
        statuses.append(process.exitcode)
        if process.is_alive():
            process.kill()
            process.join()
    return statuses
