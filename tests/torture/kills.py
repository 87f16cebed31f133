"""SIGKILL at random instants, half of them aimed into a save: always the old or the new, and the same end."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.child import SAVED, SAVING, TRAINING, Ledger, said, start
from tests.torture.world import World, damage, directory, outcome, settings, train

from spectune.training.directory import list_checkpoints, step_of

FREQUENT: dict[str, Any] = {"save_steps": 1}


@dataclass
class Count:
    """What the kills hit."""

    kills: int = 0
    inside_a_save: int = 0
    while_training: int = 0
    runs: int = 0
    failures: list[str] = field(default_factory=list)


def kill_runs(world: World, place: Path, kills: int, seed: int, kind: str = "t5") -> Count:
    """Kill runs again and again until `kills` hit a living process; every run is resumed to its end and compared."""
    whole = settings(world, kind, place / "whole", train=FREQUENT)
    train(whole)
    expected, count, chance = outcome(whole), Count(), random.Random(seed)
    while count.kills < kills:
        own = place / f"run-{count.runs}"
        own.mkdir()
        run = settings(world, kind, own / "run", train=FREQUENT)
        _one_run(run, own, kills, chance, count)
        count.runs += 1
        if outcome(run) != expected:
            count.failures.append(f"run {count.runs}, killed, ends otherwise")
    return count


def _one_run(run: Any, own: Path, kills: int, chance: random.Random, count: Count) -> None:
    """One run to its end, through as many kills as hit it."""
    while True:
        ledger = Ledger(own / "ledger")
        ledger[SAVING] = ledger[TRAINING] = 0
        before = ledger[SAVED]
        resume = bool(list_checkpoints(directory(run) / "checkpoints"))
        process = start(run, own, resume=resume)
        if count.kills < kills:
            _wait_for_a_bad_moment(process, ledger, before, chance)
            process.kill()
        process.join()
        if process.exitcode == 0:
            return
        if process.exitcode != -9:
            count.failures.append(f"ended with {process.exitcode}: {said(own)[-300:]}")
            return
        count.kills += 1
        count.inside_a_save += ledger[SAVING] > 0
        count.while_training += ledger[TRAINING]
        _look(run, ledger, count)


def _wait_for_a_bad_moment(process: Any, ledger: Ledger, before: int, chance: random.Random) -> None:
    """Anywhere in the process's life; or some saves from now, a few milliseconds into one."""
    if chance.random() < 0.4:
        process.join(chance.uniform(0.0, 3.0))
        return
    target = before + chance.randint(1, 8)
    while process.is_alive() and not (ledger[SAVING] >= target or ledger[SAVED] > target):
        time.sleep(0.0003)
    time.sleep(chance.uniform(0.0, 0.012))


def _look(run: Any, ledger: Ledger, count: Count) -> None:
    """After a kill: nothing is damaged, and the newest checkpoint is the last finished one or the one being written."""
    root = directory(run)
    count.failures += damage(root)
    steps = [step_of(path) for path in list_checkpoints(root / "checkpoints")]
    newest = max(steps, default=0)
    if newest not in (ledger[SAVED], ledger[SAVING] or ledger[SAVED]):
        count.failures.append(f"the newest is {newest}, saved was {ledger[SAVED]}, being saved {ledger[SAVING]}")
