"""Resume at every step; interrupt twice; and saving leaves no trace in the trajectory."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.torture.world import STEPS, World, as_if_killed_at, directory, outcome, settings, states, train

from spectune.errors import Interrupted
from spectune.training import loop

loop_module: Any = loop  # its names are replaced below
KINDS, INTERVALS = ("t5", "bart"), (1, 5, 10)
EVERY_STEP: dict[str, Any] = {"save_steps": 1, "save_total_limit": STEPS}


def resume_at(world: World, place: Path, kind: str, interval: int, steps: Iterable[int]) -> list[str]:
    """Resume one run at each of `steps`; says what differs from the run that was not stopped.

    Compared are the states at every later step (weights, moments, averages, masks, random states, place in the data),
    and what the run leaves behind.
    """
    run = settings(world, kind, place / "whole", adapter={"deltaT": interval}, train=EVERY_STEP)
    train(run)
    whole, expected = states(directory(run)), outcome(run)
    failures = []
    for step in steps:
        again = settings(world, kind, place / "resumed", adapter={"deltaT": interval}, train=EVERY_STEP)
        as_if_killed_at(directory(run), step, directory(again))
        train(again, resume=True)
        found = states(directory(again))
        wrong = [later for later in range(step + 1, STEPS + 1) if found[later] != whole[later]]
        if wrong or outcome(again) != expected:
            failures.append(f"{kind}, deltaT {interval}, resumed at {step}: differs at {wrong or 'the end'}")
    return failures


def saving_leaves_no_trace(world: World, place: Path, kind: str, interval: int) -> list[str]:
    """Runs that save at every step and hardly ever end alike."""
    runs = [
        settings(world, kind, place / f"saves-{every}", adapter={"deltaT": interval}, train={"save_steps": every})
        for every in (1, STEPS)
    ]
    for run in runs:
        train(run)
    exports = [outcome(run)["export"] for run in runs]
    return [] if exports[0] == exports[1] else [f"{kind}, deltaT {interval}: saving changes the run"]


def double_interruptions(world: World, place: Path, count: int, seed: int) -> list[str]:
    """Stop, resume, stop, resume: by a signal at one random step, and by a kill after another."""
    chance = random.Random(seed)
    references: dict[tuple[str, int], Any] = {}
    failures = []
    for number in range(count):
        kind, interval = chance.choice(KINDS), chance.choice(INTERVALS)
        if (kind, interval) not in references:
            whole = settings(world, kind, place / f"{kind}-{interval}", adapter={"deltaT": interval})
            train(whole)
            references[kind, interval] = outcome(whole)
        first, second = sorted(chance.sample(range(1, STEPS), 2))
        run = settings(world, kind, place / f"twice-{number}", adapter={"deltaT": interval})
        for resume, step in ((False, first), (True, second)):
            with signal_at(step, chance.choice((signal.SIGTERM, signal.SIGINT))):
                try:
                    train(run, resume=resume)
                    failures.append(f"{kind}: the signal at step {step} did not stop the run")
                except Interrupted:
                    pass
        train(run, resume=True)
        if outcome(run) != references[kind, interval]:
            failures.append(f"{kind}, deltaT {interval}: stopped at {first} and {second}, ends otherwise")
    return failures


@contextmanager
def signal_at(step: int, signum: int) -> Iterator[None]:
    """Have this process receive a signal in the middle of a training step."""
    training_step = loop_module.training_step

    def interrupted(*rest: Any, **named: Any) -> Any:
        if named["step"] == step:
            os.kill(os.getpid(), signum)
        return training_step(*rest, **named)

    loop_module.training_step = interrupted
    try:
        yield
    finally:
        loop_module.training_step = training_step
