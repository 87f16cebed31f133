"""A few of what `make torture` does at length: nothing is lost and nothing is taken for what it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.torture.configurations import check_configuration, draw
from tests.torture.faults import KINDS as FAULTS
from tests.torture.faults import fault_runs
from tests.torture.interruptions import signal_runs
from tests.torture.kills import kill_runs
from tests.torture.mutants import mutant_runs
from tests.torture.parallel import parallel_runs
from tests.torture.points import double_interruptions, resume_at
from tests.torture.poison import POISONS, poisoned_runs
from tests.torture.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Bases and table."""
    return make_world(tmp_path_factory.mktemp("world"))


def test_kills(world: World, tmp_path: Path) -> None:
    count = kill_runs(world, tmp_path, 3, seed=4)
    assert count.failures == []
    assert count.kills == 3


def test_kills_of_one_of_two_processes(world: World, tmp_path: Path) -> None:
    count = parallel_runs(world, tmp_path, 1, seed=5)
    assert count.failures == []
    assert count.kills == 1


def test_signals(world: World, tmp_path: Path) -> None:
    count = signal_runs(world, tmp_path, 1, seed=2)
    assert count.failures == []
    assert count.signals == 1


def test_faults_at_some_writes(world: World, tmp_path: Path) -> None:
    count = fault_runs(world, tmp_path, (37,), FAULTS)
    assert count.failures == []
    assert count.tried >= len(FAULTS)


def test_interrupted_twice(world: World, tmp_path: Path) -> None:
    assert double_interruptions(world, tmp_path, 1, seed=1) == []


def test_resume_with_everything_switched_on(world: World, tmp_path: Path) -> None:
    assert resume_at(world, tmp_path, "bart", 5, (7, 24)) == []


def test_poisoned_steps(world: World, tmp_path: Path) -> None:
    assert poisoned_runs(world, tmp_path, "t5", (24,), POISONS[1:3]) == []


@pytest.mark.parametrize("seed", range(12))
def test_random_configurations(seed: int) -> None:
    check_configuration(draw(seed))


def test_rotten_bytes(world: World, tmp_path: Path) -> None:
    count = mutant_runs(world, tmp_path, 100, seed=5)
    assert count.failures == []
    assert count.mutants > 90
    assert count.refused > 60
