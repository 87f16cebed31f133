"""SIGTERM and SIGINT at random instants of a real process: it says how to go on, and going on ends equal."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.torture.child import BEGUN, TRAINING, Ledger, said, start
from tests.torture.world import World, damage, directory, outcome, settings, train

from spectune.training.directory import list_checkpoints


@dataclass
class Count:
    """What the signals hit."""

    signals: int = 0
    stopped: int = 0
    while_training: int = 0
    failures: list[str] = field(default_factory=list)


def signal_runs(world: World, place: Path, signals: int, seed: int) -> Count:
    """Send `signals` to runs, one run each, at a random instant between the command's beginning and its end."""
    count, chance, references = Count(), random.Random(seed), dict[str, Any]()
    lengths: dict[str, float] = {}
    for kind in ("t5", "bart"):
        (place / kind).mkdir()
        whole = settings(world, kind, place / kind / "run")
        started = time.monotonic()
        process = start(whole, place / kind, resume=False)
        process.join()
        references[kind], lengths[kind] = outcome(whole), time.monotonic() - started
    while count.signals < signals:
        kind, signum = chance.choice(("t5", "bart")), (signal.SIGTERM, signal.SIGINT)[count.signals % 2]
        own = place / f"run-{count.signals}"
        own.mkdir()
        run = settings(world, kind, own / "run")
        count.signals += 1
        wrong = _one_signal(run, own, signum, chance.uniform(0.0, lengths[kind]), count)
        train(run, resume=bool(list_checkpoints(directory(run) / "checkpoints")))
        if outcome(run) != references[kind]:
            wrong.append("the run ends otherwise")
        count.failures += [f"{kind}, {signal.Signals(signum).name}: {line}" for line in wrong]
    return count


def _one_signal(run: Any, own: Path, signum: int, wait: float, count: Count) -> list[str]:
    ledger = Ledger(own / "ledger")
    process = start(run, own, resume=False)
    while process.is_alive() and not ledger[BEGUN]:
        time.sleep(0.002)
    process.join(wait)
    training = ledger[TRAINING]
    if process.is_alive():
        os.kill(process.pid, signum)
    process.join()
    wrong = damage(directory(run)) if directory(run).exists() else []
    if process.exitcode == 0:  # it was faster
        return wrong
    count.stopped += 1
    count.while_training += training
    output = said(own)
    if process.exitcode != 128 + signum or "Traceback" in output:
        wrong.append(f"ended with {process.exitcode}: {output[-300:]}")
    saved = bool(list_checkpoints(directory(run) / "checkpoints"))
    hint = "continue with: spectune train" if saved else "nothing was saved yet"
    if hint not in output:
        wrong.append(f"does not say how to go on: {output[-300:]}")
    if training and not saved:
        wrong.append("was stopped while training and saved nothing")
    return wrong
