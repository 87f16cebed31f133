"""Signals, the lock, a full disk and full memory: one line, a whole checkpoint, and the same end after going on."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tests.torture.points import signal_at
from tests.training.conftest import Run, journal

from spectune.cli import main
from spectune.config import RunConfig
from spectune.errors import ConfigError, Interrupted, RunError
from spectune.files import PARTIAL
from spectune.formats.adapter_files import WEIGHTS
from spectune.manifest import sha256, verify_manifest
from spectune.training import loop as loop_module
from spectune.training.faults import memory_explained
from spectune.training.signals import Stop, catch_signals

pytestmark = pytest.mark.usefixtures("quick_proof")


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [2, 8, 11])
def test_a_signal_in_a_step_saves_it_and_says_how_to_go_on(
    run: Run, tmp_path: Path, signum: int, status: int, step: int
) -> None:
    """Step 8 is the freeze; nothing was due to be saved at any of them."""
    whole = run(train={"output_dir": str(tmp_path / "whole")})
    stopped = {"output_dir": str(tmp_path / "stopped")}
    with signal_at(step, signum), pytest.raises(Interrupted, match=r"continue with: spectune train .* --resume") as end:
        run(train=stopped)
    assert end.value.status == status
    assert [path.name for path in (tmp_path / "stopped" / "checkpoints").iterdir()] == [f"step-{step}"]
    verify_manifest(tmp_path / "stopped" / "checkpoints" / f"step-{step}")
    resumed = run(train=stopped, resume=True)
    assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_commands_exit_status(run: Run, capsys: pytest.CaptureFixture[str], signum: int, status: int) -> None:
    finished = run(train={"save_steps": 14})
    shutil.rmtree(finished.directory / "checkpoints")
    with signal_at(3, signum):
        assert main(["train", str(finished.directory / "run.yaml"), "--overwrite"]) == status
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith(f"spectune: stopped by {signal.Signals(signum).name}; continue with: spectune train ")
    assert "Traceback" not in "".join(said)
    command = said[-1].partition("continue with: spectune ")[2].split()
    assert main(command) == 0


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    stop = Stop()
    with stop.noting():
        stop.handle(signal.SIGTERM, None)
        assert ended == []
        stop.handle(signal.SIGINT, None)
    assert ended == [130]


def test_outside_of_steps_it_is_raised_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), catch_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


HOLD = """
import sys, time
from pathlib import Path
from spectune.training.lock import locked
with locked(Path(sys.argv[1])):
    print("taken", flush=True)
    time.sleep(60)
"""


@contextmanager
def held_by_another(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the directory's lock, killed at the end."""
    with subprocess.Popen([sys.executable, "-c", HOLD, str(directory)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "taken\n"
        try:
            yield other
        finally:
            other.kill()


def test_two_runs_in_one_directory(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    with (
        held_by_another(place) as other,
        pytest.raises(RunError, match=rf"process {other.pid} on .* is training in .*; wait for it, stop it, or"),
    ):
        run()
    assert {path.name for path in place.iterdir()} == {".lock"}, "nothing of the other run is touched"
    assert run().adapter.is_dir(), "the lock went with its process, which was killed"


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_too_little_disk_is_found_before_the_first_step(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9 - 10**6, 10**6))
    monkeypatch.setattr(loop_module, "training_step", lambda *_, **__: pytest.fail("a step was taken"))
    with pytest.raises(RunError, match=r"has 1 MB of free disk, and the run takes about \d+ MB .*; make room"):
        run()


def test_a_disk_that_fills_while_saving_keeps_the_last_checkpoint(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from spectune.training import checkpoint

    module: Any = checkpoint
    write_new, writes = module.write_new, 0

    def full(*rest: Any, **named: Any) -> None:
        nonlocal writes
        writes += 1
        if writes > 2:
            raise OSError(28, "No space left on device")
        write_new(*rest, **named)

    monkeypatch.setattr(module, "write_new", full)
    with pytest.raises(RunError, match="No space left on device"):
        run(train={"save_steps": 3, "output_dir": str(tmp_path / "full")})
    kept = sorted((tmp_path / "full" / "checkpoints").iterdir())
    assert [path.name for path in kept] == ["step-3", "step-6"]
    for path in kept:
        verify_manifest(path)
    monkeypatch.setattr(module, "write_new", write_new)
    resumed = run(train={"save_steps": 3, "output_dir": str(tmp_path / "full")}, resume=True)
    whole = run(train={"output_dir": str(tmp_path / "whole")})
    assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)


def test_a_disk_that_is_full_for_the_journal_says_how_to_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from spectune.training import journal

    module: Any = journal
    write_all = module.write_all

    def full(file: int, content: bytes) -> None:
        if b'"step": 7' in content:
            raise OSError(28, "No space left on device")
        write_all(file, content)

    monkeypatch.setattr(module, "write_all", full)
    train: dict[str, Any] = {"save_steps": 3, "logging_steps": 1}
    place = tmp_path / "full"
    with pytest.raises(RunError) as refused:
        run(train=train | {"output_dir": str(place)})
    line = str(refused.value)
    assert line.startswith(f"the journal cannot be written ({place / 'journal.jsonl'}: No space left on device")
    assert line.endswith(f"continue with: spectune train {place / 'run.yaml'} --resume")
    monkeypatch.setattr(module, "write_all", write_all)
    resumed = run(train=train | {"output_dir": str(place)}, resume=True)
    whole = run(train=train | {"output_dir": str(tmp_path / "whole")})
    assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("during", "changes", "advice"),
    [
        (
            "training",
            {},
            r"step of 8 rows; start anew with train.per_device_train_batch_size=4 with train.gradient_acc",
        ),
        ("training", {"per_device_train_batch_size": 1}, r"of 1 rows; start anew with train.gradient_checkpointing"),
        (
            "evaluation",
            {},
            r"of 32 rows at once; continue with evaluation.per_device_eval_batch_size=16 and",
        ),
    ],
)
def test_full_memory_names_the_batch_sizes_to_try(during: Any, changes: dict[str, int], advice: str) -> None:
    config = RunConfig.model_validate(
        {"model": {"model_name_or_path": "x"}, "data": {"train_file": "x"}, "train": changes}
    )
    with pytest.raises(RunError, match=advice), memory_explained(config, during):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="shapes"), memory_explained(config, during):
        raise RuntimeError("shapes do not fit")


def test_a_hundred_bad_steps_in_a_row_end_the_run(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(loop_module, "SKIPS_IN_A_ROW", 4)
    module: Any = loop_module
    training_step = module.training_step

    def poisoned(*rest: Any, **named: Any) -> Any:
        *parts, window = rest
        if named["step"] > 6:
            window = replace(window, target_tokens=0)  # the loss becomes infinite
        return training_step(*parts, window, **named)

    monkeypatch.setattr(loop_module, "training_step", poisoned)
    with pytest.raises(RunError, match=r"4 steps in a row had a loss or gradient that is not finite; lower"):
        run(train={"save_steps": 2, "logging_steps": 1, "output_dir": str(tmp_path / "run")})
    kept = sorted((tmp_path / "run" / "checkpoints").iterdir())
    assert kept
    state = load_file(kept[0] / "state.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point())


def test_resume_from_another_directory_leaves_that_alone(run: Run, tmp_path: Path) -> None:
    train = {"save_steps": 1, "save_total_limit": 99}
    whole = run(train=train | {"output_dir": str(tmp_path / "whole")})
    before = {path: sha256(path) for path in whole.directory.rglob("*.safetensors")}
    source = str(whole.directory / "checkpoints" / "step-5")
    moved = run(train=train | {"output_dir": str(tmp_path / "moved")}, resume=source)
    assert sha256(moved.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)
    assert {path: sha256(path) for path in whole.directory.rglob("*.safetensors")} == before
    steps = [event["step"] for event in journal(moved) if event["event"] == "step"]
    assert steps == [event["step"] for event in journal(whole) if event["event"] == "step"]
    with pytest.raises(RunError, match=r"holds checkpoints of its own and cannot go on from .*; name another"):
        run(train=train | {"output_dir": str(tmp_path / "moved")}, resume=source)


@pytest.mark.parametrize("side", ["source", "target"])
def test_lengths_that_special_tokens_use_up(run: Run, tmp_path: Path, side: str) -> None:
    with pytest.raises(ConfigError, match=rf"data.max_{side}_length 1 leaves no token for the text .*; set it to 2 or"):
        run(data={f"max_{side}_length": 1})
    assert not (tmp_path / "run" / "adapter").exists()


def test_weights_that_are_not_finite_are_not_saved(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module: Any = loop_module
    training_step = module.training_step

    def exploding(*rest: Any, **named: Any) -> Any:
        result = training_step(*rest, **named)
        if named["step"] == 14:
            rest[1].store.queries[0].rows.data[0] = float("inf")
        return result

    monkeypatch.setattr(module, "training_step", exploding)
    with pytest.raises(RunError, match=r"weights are not finite, so it was not saved; lower train.learning_rate"):
        run()
    assert not (tmp_path / "run" / "adapter").exists()


def test_a_directory_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/run cannot be made \(Not a directory\); name another train.output_dir"):
        run(train={"output_dir": str(tmp_path / "file" / "run")})


def test_a_first_checkpoint_that_was_being_written_is_none(run: Run, tmp_path: Path) -> None:
    """The process died between the manifest and the renaming; there is nothing to go on from, and nothing to lose."""
    whole = run(train={"output_dir": str(tmp_path / "whole")})
    left = tmp_path / "run" / "checkpoints" / f"step-14{PARTIAL}"
    shutil.copytree(whole.directory / "checkpoints" / "step-14", left)
    again = run()
    assert not left.exists()
    assert sha256(again.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)
