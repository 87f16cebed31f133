"""A run that is stopped and resumed is the run that was not, bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.torture.world import as_if_killed_at
from tests.training.conftest import Run, journal

from spectune.errors import ConfigError, RunError
from spectune.manifest import sha256
from spectune.training.fingerprint import check_fingerprint

pytestmark = pytest.mark.usefixtures("quick_proof")

EVERY_STEP: dict[str, Any] = {"save_steps": 1, "save_total_limit": 99}
KINDS: dict[str, dict[str, Any]] = {
    "t5": {"base": "t5"},
    "bart with accumulation": {
        "base": "bart",
        "train": {"gradient_accumulation_steps": 2},
        "data": {"max_source_length": 48},
    },
}


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("step", [1, 3, 4, 7, 8, 9, 13])
def test_resume_is_bitwise(run: Run, tmp_path: Path, kind: str, step: int) -> None:
    options = KINDS[kind]
    train = options.get("train", {}) | EVERY_STEP
    common = {
        "base": options["base"],
        "data": options.get("data", {}),
        "evaluation": {"eval_strategy": "steps", "eval_steps": 5},
    }
    whole = run(train=train | {"output_dir": str(tmp_path / "whole")}, **common)
    # the directory as a kill right after this checkpoint leaves it
    killed = tmp_path / "killed"
    as_if_killed_at(whole.directory, step, killed)
    torch.manual_seed(999)
    resumed = run(resume=True, train=train | {"output_dir": str(killed)}, **common)
    for name in ("adapter_model.safetensors", "importance.safetensors"):
        assert sha256(resumed.adapter / name) == sha256(whole.adapter / name)
    last = [load_file(run.directory / "checkpoints" / "step-14" / "state.safetensors") for run in (whole, resumed)]
    assert last[0].keys() == last[1].keys()
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert _facts(journal(resumed)) == _facts(journal(whole))
    assert resumed.summary["metrics"] == whole.summary["metrics"]
    assert resumed.summary["phases"] == whole.summary["phases"]


def _facts(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k not in ("seconds", "tokens_per_second")} for event in events]


def test_a_damaged_checkpoint_is_passed_over(run: Run) -> None:
    whole = run(train={"save_steps": 4, "save_total_limit": 9})
    before = sha256(whole.adapter / "adapter_model.safetensors")
    newest = whole.directory / "checkpoints" / "step-14" / "state.safetensors"
    content = bytearray(newest.read_bytes())
    content[-3] ^= 1
    newest.write_bytes(content)
    resumed = run(resume=True, train={"save_steps": 4, "save_total_limit": 9})
    assert [e["step"] for e in journal(resumed) if e["event"] == "save"] == [4, 8, 12, 14]
    assert sha256(resumed.adapter / "adapter_model.safetensors") == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"adapter": {"deltaT": 3}}, "adapter.deltaT was 2 and is 3"),
        ({"train": {"learning_rate": 1e-3}}, "train.learning_rate was 0.005 and is 0.001"),
        ({"data": {"source_prefix": "x "}}, "data.source_prefix was '' and is 'x '"),
    ],
)
def test_another_run_is_refused(run: Run, changed: dict[str, Any], named: str) -> None:
    run()
    with pytest.raises(RunError) as refused:
        run(resume=True, **changed)
    assert named in str(refused.value)


def test_other_rows_are_refused(run: Run, table: Path, tmp_path: Path) -> None:
    copy = tmp_path / "rows.csv"
    shutil.copy(table, copy)
    run(data={"train_file": str(copy)})
    copy.write_text(copy.read_text("utf-8").replace("number 3 ", "number 33 "), encoding="utf-8")
    with pytest.raises(RunError, match="training data or its tokenization"):
        run(resume=True, data={"train_file": str(copy)})


def test_a_checkpoint_under_another_name_and_one_that_was_copied_before(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was copied into a new directory by a resume that was refused later is no run of its own."""
    saves: dict[str, Any] = {"save_steps": 4, "save_total_limit": 9}
    whole = run(train=saves)
    good = shutil.copytree(whole.directory / "checkpoints" / "step-8", tmp_path / "good")
    other = {**saves, "output_dir": str(tmp_path / "other")}
    monkeypatch.setattr("spectune.training.resume.check_fingerprint", refuse_in_full(check_fingerprint))
    with pytest.raises(RunError, match="not here"):
        run(resume=str(good), train=other)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "other" / "checkpoints").iterdir()] == ["step-8"]
    resumed = run(resume=good, train=other)
    weights = "adapter_model.safetensors"
    assert sha256(resumed.adapter / weights) == sha256(whole.adapter / weights)
    with pytest.raises(RunError, match="holds checkpoints of its own"):
        run(resume=str(whole.directory / "checkpoints" / "step-4"), train=other)
    with pytest.raises(ConfigError, match="resume must be true, false, a checkpoint or a run directory"):
        run(resume=8, train=other)


def refuse_in_full(check: Any) -> Any:
    """`check_fingerprint` that refuses once the model is loaded, as for another number of threads."""

    def refusing(saved: dict[str, Any], here: dict[str, Any]) -> Any:
        if "data" in here or len(here) > 3:
            raise RunError("not here")
        return check(saved, here)

    return refusing


def test_an_earlier_run_stays_until_nothing_can_refuse_the_new_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--overwrite` with an `init_from` that does not fit, no room on the disk, a signal in the gradient start."""
    directory = run().directory
    before = {path.name: sha256(path) for path in directory.iterdir() if path.is_file()}

    def refuse(*arguments: Any, **options: Any) -> None:
        raise RunError("does not fit")

    for late in ("check_space", "initialize"):
        with monkeypatch.context() as patch:
            patch.setattr(f"spectune.training.run.{late}", refuse)
            with pytest.raises(RunError, match="does not fit"):
                run(overwrite=True, train={"seed": 3})
        assert {path.name: sha256(path) for path in directory.iterdir() if path.is_file()} == before
    again = run(overwrite=True, train={"seed": 3})
    assert sum(event["event"] == "start" for event in journal(again)) == 1


def test_nothing_to_resume(run: Run) -> None:
    with pytest.raises(RunError, match="no whole checkpoint"):
        run(resume=True)


def test_the_state_is_json_and_safetensors_only(run: Run) -> None:
    result = run()
    files = {path.name for path in (result.directory / "checkpoints" / "step-14").iterdir()}
    assert files == {"manifest.json", "state.json", "state.safetensors"}
    json.loads((result.directory / "checkpoints" / "step-14" / "state.json").read_text("utf-8"))
