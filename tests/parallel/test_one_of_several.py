"""What one process does because a launcher has started it among others; nothing of it needs the others."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import torch.distributed as dist

import spectune
from spectune.cli import main
from spectune.errors import ConfigError, ElsewhereError, RunError
from spectune.launch import alone
from spectune.training.directory import RunDirectory
from spectune.training.meeting import own_device
from spectune.training.parallel import LostError, collective, joined
from spectune.training.signals import SIGNALS, Stop, catch_signals

LAUNCHED = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}


@pytest.fixture
def of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (LAUNCHED | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def callers_group(tmp_path: Path, of_two: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group that a caller's program has formed; it only says that it has two members."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)
    yield
    dist.destroy_process_group()


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    return statuses


def test_a_signal_that_the_launcher_sends_on_is_not_a_second_one(
    of_two: None, exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches launcher and processes, and then the launcher passes it on."""
    now = [100.0]
    monkeypatch.setattr("spectune.training.signals.time.monotonic", lambda: now[0])
    stop = Stop()
    stop.patient = True
    for seconds in (0.0, 0.5, 1.0):
        now[0] += seconds
        stop.handle(signal.SIGTERM, None)
    assert exits == []
    now[0] += 10.0
    stop.handle(signal.SIGTERM, None)
    assert exits == [143]


def test_a_second_signal_ends_a_process_that_is_alone(exits: list[int]) -> None:
    stop = Stop()
    with stop.noting():
        for _ in range(2):
            stop.handle(signal.SIGINT, None)
    assert exits == [130]


def test_the_handlers_of_before_come_back_after_a_failure() -> None:
    """A program may catch the failure and go on."""
    before = [signal.getsignal(one) for one in SIGNALS]
    with catch_signals() as stop:
        stop.ending = True
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_a_command_that_fails_is_not_cut_off_while_it_says_why(
    of_two: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(one) for one in SIGNALS]
    monkeypatch.setattr(sys, "argv", ["spectune", "train", str(tmp_path / "none.yaml")])
    try:
        assert main() == 2
        assert [signal.getsignal(one) for one in SIGNALS] == [signal.SIG_IGN] * 2
    finally:
        for one, handler in zip(SIGNALS, before, strict=True):
            signal.signal(one, handler)
    assert capsys.readouterr().err.startswith("spectune: error: ")


def test_the_hint_where_the_run_directory_lies_elsewhere(of_two: None, tmp_path: Path) -> None:
    assert "--resume if the run directory of process 0 has checkpoints" in RunDirectory(tmp_path / "run").resume_hint()
    (tmp_path / "run").mkdir()
    assert RunDirectory(tmp_path / "run").resume_hint() == "nothing was saved yet; start it again"


def test_every_process_of_a_machine_with_too_few_gpus_says_so(of_two: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the one that has a GPU: it alone speaks."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="this machine has 1 GPUs and more processes"):
        own_device(torch.device("cuda"))


def test_who_speaks_is_asked_anew_each_time(callers_group: None) -> None:
    """A second failure in the same group has its own first one."""

    def fail() -> NoReturn:
        raise RunError("the disk is full")

    for _ in range(2):
        with pytest.raises(RunError, match="the disk is full"), joined(True, Stop(), lambda: ""):
            fail()


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("[pair.cc:553] Connection closed by peer [127.0.0.1]:1", r"^another process of the run has ended; go on$"),
        ("NCCL error: out of memory", r"^another process of the run has ended \(NCCL error: out of memory\); go on$"),
    ],
)
def test_why_a_collective_failed(callers_group: None, reason: str, said: str) -> None:
    with pytest.raises(RunError, match=said), joined(True, Stop(), lambda: "go on"), collective():
        raise RuntimeError(reason)


def test_a_group_without_host_memory_is_refused(callers_group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_self: Any, device: torch.device) -> NoReturn:
        raise RuntimeError(f"No backend type associated with device type {device.type}")

    monkeypatch.setattr(dist.ProcessGroup, "_get_backend", none)
    with pytest.raises(ConfigError, match="cannot exchange what lies in host memory; form it with"):
        joined(True, Stop(), lambda: "").__enter__()


def test_a_run_of_one_process_alone_meets_nobody(of_two: None, tmp_path: Path) -> None:
    """Mixed precision needs no processes: a library that reads the launcher's environment would wait for them."""
    config = {
        "model": {"model_name_or_path": "starter"},
        "data": {"dataset_name": "starter", "max_train_samples": 32, "max_validation_samples": 4},
        "adapter": {"init_r": 4, "target_r": 2, "tinit": 1, "tfinal": 1, "init": "random"},
        "train": {"output_dir": str(tmp_path / "run"), "max_steps": 3, "use_cpu": True, "mixed_precision": "bf16"},
        "evaluation": {"eval_strategy": "no", "eval_on_start": False},
    }
    with alone():
        assert spectune.train(config).summary["reload_identical"]
    assert not dist.is_initialized()


def test_a_lost_process_and_one_that_says_why_are_told_apart() -> None:
    with pytest.raises(LostError, match="gone"), collective():
        raise RuntimeError("gone")
    with pytest.raises(ElsewhereError), collective():
        raise ElsewhereError("said there")
