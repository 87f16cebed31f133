"""Runs what is missing, in processes of one thread each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any

import torch
from benchmarks.quality.methods import METHODS
from benchmarks.quality.results import GRID, START, Key, Results, next_rate
from benchmarks.quality.tasks import TASKS, ground
from benchmarks.quality.training import run


@dataclass(frozen=True)
class Wanted:
    """What is asked for: all combinations."""

    stage: str
    tasks: list[str]
    methods: list[str]
    ranks: list[int]
    seeds: list[int]
    """Of a search: it goes by the mean over them. Else one run each."""

    def chains(self) -> list[Key]:
        """The first run of each chain; what does not depend on the rank is there once."""
        return [
            Key(self.stage, task, method, rank, seed, GRID[START[0]])
            for task in self.tasks
            for rank in self.ranks
            for method in self.methods
            for seed in (self.seeds[:1] if self.stage == "search" else self.seeds)
        ]


class Pool:
    """Runs in processes of one thread each. A chain is one run after another: a search, or a single one at its rate."""

    def __init__(self, results: Results, wanted: Wanted, *, base: str, jobs: int, points: int) -> None:
        """`points`: validation scores on the way, but of a search."""
        self._results, self._base, self._jobs, self._points = results, base, jobs, points
        self._chains, self._seeds = wanted.chains(), wanted.seeds

    def run(self) -> None:
        """Until every chain has ended."""
        context = multiprocessing.get_context("spawn")
        running: dict[Future[dict[str, Any]], Key] = {}
        with ProcessPoolExecutor(self._jobs, mp_context=context, initializer=begin_worker) as pool:
            waiting = list(self._chains)
            while waiting or running:
                while waiting and len(running) < self._jobs:
                    self._begin(pool, running, waiting.pop(0))
                done, _ = wait(running, return_when=FIRST_COMPLETED) if running else (set(), None)
                for future in done:
                    key = running.pop(future)
                    self._results.add(key, future.result())
                    _say(key, self._results[key])
                    self._begin(pool, running, key)

    def _begin(self, pool: ProcessPoolExecutor, running: dict[Future[dict[str, Any]], Key], key: Key) -> None:
        following = self._next(key)
        if following is not None:
            points = 0 if key.stage == "search" else self._points
            running[pool.submit(_work, following, self._base, points)] = following

    def _next(self, chain: Key) -> Key | None:
        """The next run of a chain; None at its end."""
        if chain.stage == "search":
            return self._next_of_search(chain)
        task = TASKS[chain.task]
        rate = self._results.best_rate(task.value, task.searched, chain.method, chain.rank)
        if METHODS[chain.method].kind == "frozen":
            rate = chain.rate
        if rate is None:
            raise SystemExit(f"no finished search for {chain.method} on {chain.task} at {chain.rank}")
        key = replace(chain, rate=rate)
        return None if key in self._results else key

    def _next_of_search(self, chain: Key) -> Key | None:
        """The first seed that is missing at the rate to try next; seeds of an earlier search count, too."""
        there = {key.seed for key in self._results if replace(key, seed=chain.seed, rate=chain.rate) == chain}
        seeds = sorted({*self._seeds, *there})
        found = self._results.searched(TASKS[chain.task].value, chain.task, chain.method, chain.rank, seeds)
        if METHODS[chain.method].kind == "frozen" and found:
            return None
        rate = next_rate(found)
        if rate is None:
            return None
        keys = [replace(chain, rate=rate, seed=seed) for seed in seeds]
        return next(key for key in keys if key not in self._results)


def begin_worker() -> None:
    """One thread for torch, and an end with the parent, which may be killed in the middle of a run."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _work(key: Key, base: str, points: int) -> dict[str, Any]:
    return run(
        ground(key.task, base),
        METHODS[key.method],
        rank=key.rank,
        rate=key.rate,
        seed=key.seed,
        tests=key.stage == "confirm",
        points=points,
    )


def _say(key: Key, found: dict[str, Any]) -> None:
    value = TASKS[key.task].value
    scores = {name: value(found[name]) for name in ("validation", "test") if name in found}
    shown = "  ".join(f"{name} {score:.4f}" for name, score in scores.items())
    print(
        f"{key.task:14} r {key.rank} seed {key.seed} {key.method:36} {key.rate:.0e}  {shown}  {found['seconds']:.0f} s",
        flush=True,
    )
