"""Streamed runs through the real run: resumed bit for bit, at any step and across the ends of epochs; refusals."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file
from tests.torture.points import signal_at
from tests.torture.world import as_if_killed_at
from tests.training.conftest import Run, journal

import spectune
from spectune.config import RunConfig
from spectune.errors import ConfigError, DataError, Interrupted, RunError
from spectune.formats.adapter_files import WEIGHTS
from spectune.manifest import sha256
from spectune.planning import outline_run
from spectune.runfile import dump_run_config, load_run_config
from spectune.training.progress import Reporter

pytestmark = pytest.mark.usefixtures("quick_proof", "own_cache")

EVERY_STEP: dict[str, Any] = {"save_steps": 1, "save_total_limit": 99}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` leaves a lock file for each file it streams."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def streaming(table: Path) -> dict[str, Any]:
    """Data settings: 46 rows, buffers of 8, so that an epoch has six blocks of two windows."""
    return {"streaming": True, "shuffle_buffer_size": 8, "validation_file": str(table), "max_validation_samples": 5}


def facts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in ("seconds", "tokens_per_second")} for event in events]


@pytest.mark.parametrize("step", [1, 4, 12, 13, 17])
def test_resume_is_bitwise(run: Run, tmp_path: Path, streaming: dict[str, Any], step: int) -> None:
    """An epoch has 12 steps; the freeze is after step 12 of 18."""
    train = EVERY_STEP | {"max_steps": 18}
    common: dict[str, Any] = {"data": streaming, "evaluation": {"eval_strategy": "epoch"}}
    whole = run(train=train | {"output_dir": str(tmp_path / "whole")}, **common)
    assert [e["step"] for e in journal(whole) if e["event"] == "evaluation"] == [12, 18]
    killed = tmp_path / "killed"
    as_if_killed_at(whole.directory, step, killed)
    torch.manual_seed(999)
    resumed = run(resume=True, train=train | {"output_dir": str(killed)}, **common)
    assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)
    last = [load_file(one.directory / "checkpoints" / "step-18" / "state.safetensors") for one in (whole, resumed)]
    assert last[0].keys() == last[1].keys()
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert facts(journal(resumed)) == facts(journal(whole))
    for name in ("metrics", "phases", "stream"):
        assert resumed.summary[name] == whole.summary[name]
    assert whole.summary["stream"]["examples"] == 46
    assert whole.summary["stream"]["epochs"] == 1


def test_a_signal_between_saves(run: Run, tmp_path: Path, streaming: dict[str, Any]) -> None:
    whole = run(data=streaming, train={"output_dir": str(tmp_path / "whole")})
    stopped = {"output_dir": str(tmp_path / "stopped")}
    with signal_at(7, signal.SIGTERM), pytest.raises(Interrupted):
        run(data=streaming, train=stopped)
    resumed = run(data=streaming, train=stopped, resume=True)
    assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)


def test_an_informed_start_draws_rows_of_its_own(run: Run, streaming: dict[str, Any]) -> None:
    result = run(data=streaming, adapter={"init": "gradient"})
    assert result.summary["stream"]["rows"] == 46


def test_a_run_without_validation_proves_the_first_rows(run: Run, streaming: dict[str, Any]) -> None:
    result = run(data=streaming | {"validation_file": None, "validation_split": None})
    assert result.summary["reload"]["rows"] == 46
    assert result.summary["reload_identical"]


def test_what_a_person_sees(run: Run, streaming: dict[str, Any], tmp_path: Path, table: Path) -> None:
    gaps = tmp_path / "gaps.csv"
    gaps.write_text(table.read_text("utf-8") + ",1\n", encoding="utf-8")
    screen = StringIO()
    run(data=streaming | {"train_file": str(gaps)}, screen=screen)
    text = screen.getvalue()
    for expected in (
        rf"train: streamed from {re.escape(str(gaps))}, number of rows unknown, shuffled in a buffer of 8;",
        r"train, first 46 rows, cut: ",
        r"train: 46 of 47 rows in all",
        r"train cut: 0\.0% of sources \(longest \d+ tokens\), 0\.0% of targets \(longest \d+\)",
        r"train: 1 row left out, empty column 'text' \(row 47\)",
    ):
        assert re.search(expected, text), f"{expected}\n{text}"


def test_the_epochs_end_is_a_remark_before_the_run(streaming: dict[str, Any], table: Path) -> None:
    starter = {"model": {"model_name_or_path": "starter"}, "data": {"train_file": str(table), **streaming}}
    config = load_run_config(None, base={**starter, "train": {"max_steps": 20}})
    outline = outline_run(config)
    assert (outline.lengths.rows, outline.lengths.steps_per_epoch, outline.lengths.total_step) == (None, None, 20)
    assert any("the end of a streamed epoch is only known when it comes" in note for note in outline.notes)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"max_steps": None}}, "does not know how many rows an epoch has; give train.max_steps"),
        ({"data": {"validation_file": None}}, "rows of a stream cannot be held out by data.validation_split; give"),
    ],
)
def test_refused(run: Run, streaming: dict[str, Any], sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        run(data=streaming | sections.get("data", {}), train=sections.get("train", {}))
    assert not (tmp_path / "run").exists()


def test_other_rows_are_refused(run: Run, streaming: dict[str, Any], table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "rows.csv"
    shutil.copy(table, copy)
    data = streaming | {"train_file": str(copy)}
    run(data=data)
    with pytest.raises(RunError, match=r"data\.shuffle_buffer_size was 8 and is 9 now"):
        run(resume=True, data=data | {"shuffle_buffer_size": 9})
    copy.write_text(copy.read_text("utf-8").replace("number 3 rose", "number 3 fell"), encoding="utf-8")
    with pytest.raises(RunError, match="training data or its tokenization"):
        run(resume=True, data=data)


def test_a_bad_row_far_down_keeps_the_checkpoints(
    run: Run, streaming: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mended, the run goes on from where it met the row, and is the run over mended rows."""
    monkeypatch.setattr("spectune.data.row_streams.HEAD_ROWS", 20)
    path = tmp_path / "rows.csv"
    rows = [f"sales number {n} rose,{n % 2}" for n in range(46)]
    path.write_text("text,label\n" + "\n".join([*rows[:40], "sales fell,7", *rows[41:]]) + "\n", encoding="utf-8")
    data = streaming | {"train_file": str(path)}
    with pytest.raises(DataError, match=r"label '7' \(row 41\) not in the label names .*; continue with: spectune "):
        run(data=data)
    (saved,) = (tmp_path / "run" / "checkpoints").iterdir()
    path.write_text(path.read_text("utf-8").replace("fell,7", "fell,1"), encoding="utf-8")
    resumed = run(resume=True, data=data)
    whole = run(data=data, train={"output_dir": str(tmp_path / "whole")})
    assert saved.name in ("step-6", "step-8", "step-10")
    assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)


def test_a_killed_command_goes_on_to_the_same_bytes(
    tmp_path: Path, bases: dict[str, Path], table: Path, streaming: dict[str, Any]
) -> None:
    """The real command, ended by SIGKILL, which nothing can catch."""

    def run_file(place: Path) -> Path:
        config = RunConfig.model_validate(
            {
                "model": {"model_name_or_path": str(bases["t5"])},
                "data": {"train_file": str(table), "label_names": {0: "no", 1: "yes"}, "max_target_length": 8}
                | streaming,
                "adapter": {"init_r": 4, "target_r": 2, "tinit": 5, "tfinal": 30, "deltaT": 2},
                "train": {
                    "output_dir": str(place),
                    "max_steps": 80,
                    "save_steps": 10,
                    "per_device_train_batch_size": 4,
                    "use_cpu": True,
                },
                "evaluation": {"eval_strategy": "no", "eval_on_start": False},
            }
        )
        (tmp_path / "run.yaml").write_text(dump_run_config(config), encoding="utf-8")
        return tmp_path / "run.yaml"

    environment = os.environ | {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = [sys.executable, "-m", "spectune", "train", str(run_file(killed))]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (killed / "checkpoints" / "step-20").is_dir():
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "adapter").exists()
    quiet = Reporter(quiet=True)
    spectune.train(run_file(killed), resume=True, reporter=quiet)
    spectune.train(run_file(whole), reporter=quiet)
    assert sha256(killed / "adapter" / WEIGHTS) == sha256(whole / "adapter" / WEIGHTS)
