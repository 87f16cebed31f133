"""`adapter.budget` in a run: the saved file fits, the run resumes, `plan` shows it, and what cannot be is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.torture.world import as_if_killed_at
from tests.training.conftest import Run, journal

import spectune
from spectune.errors import ConfigError
from spectune.formats.adapter_files import WEIGHTS
from spectune.manifest import sha256
from spectune.planning import plan_run
from spectune.runfile import load_run_config

pytestmark = pytest.mark.usefixtures("quick_proof")

BUDGET: dict[str, Any] = {"init_r": 8, "budget": "20kB"}
MOST_OF_A_TRIPLET = 4 * (32 + 48 + 1)


def adapter_section(**more: Any) -> dict[str, Any]:
    """The tests' own configuration names target_r."""
    return {"target_r": None, **BUDGET, **more}


@pytest.mark.parametrize("more", [{}, {"pruning": "permanent"}, {"trainable_token_indices": [3, 5]}], ids=str)
@pytest.mark.parametrize("base", ["t5", "bart"])
def test_the_saved_weights_fit_and_use_the_room(run: Run, base: str, more: dict[str, Any]) -> None:
    result = run(base=base, adapter=adapter_section(**more), data={"max_source_length": 48})
    size = (result.adapter / WEIGHTS).stat().st_size
    assert 20_000 - MOST_OF_A_TRIPLET - 1_200 < size <= 20_000, "at most the slack of the header's bound is left"
    budget = result.summary["budget"]
    assert budget["unit"] == "parameters"
    assert budget["target"] - MOST_OF_A_TRIPLET // 4 < budget["spent"] <= budget["target"]
    allocations = [event for event in journal(result) if event["event"] == "allocation"]
    assert allocations[-1]["budget"] == budget["target"]
    assert allocations[-1]["ranks"] == result.summary["ranks"]
    steps = [event for event in journal(result) if event["event"] == "step"]
    assert steps[-1]["spent"] == budget["spent"]
    assert steps[-1]["live"] == sum(result.summary["ranks"].values())
    config = json.loads((result.adapter / "adapter_config.json").read_text("utf-8"))
    assert config["target_r"] == max(1, round(sum(result.summary["ranks"].values()) / len(result.summary["ranks"])))


def test_resume_is_bitwise(run: Run, tmp_path: Path) -> None:
    train: dict[str, Any] = {"save_steps": 1, "save_total_limit": 99}
    whole = run(adapter=adapter_section(), train=train | {"output_dir": str(tmp_path / "whole")})
    for step in (3, 7, 9):
        killed = tmp_path / f"killed-{step}"
        as_if_killed_at(whole.directory, step, killed)
        resumed = run(adapter=adapter_section(), train=train | {"output_dir": str(killed)}, resume=True)
        assert sha256(resumed.adapter / WEIGHTS) == sha256(whole.adapter / WEIGHTS)


def test_the_resolved_run_file_gives_the_same_run(run: Run, tmp_path: Path) -> None:
    first = run(adapter=adapter_section())
    config = load_run_config(first.directory / "run.yaml", [f"train.output_dir={tmp_path / 'again'}"])
    assert (config.adapter.budget, config.adapter.target_r) == ("20kB", None)
    again = spectune.train(config)
    assert sha256(again.adapter / WEIGHTS) == sha256(first.adapter / WEIGHTS)
    plan = plan_run(config)
    assert plan.target_budget == first.summary["budget"]["target"]
    assert plan.parameters.saved == plan.target_budget


@pytest.mark.parametrize(
    ("budget", "message"),
    [("9MB", "raise init_r or lower the budget"), ("2kB", "leaves 0 parameters"), (40, "adapt fewer matrices")],
)
def test_what_cannot_be_met_is_refused_before_weights_are_read(
    run: Run, monkeypatch: pytest.MonkeyPatch, budget: str | int, message: str
) -> None:
    monkeypatch.setattr("spectune.training.run.load_base", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(ConfigError, match=message):
        run(adapter=adapter_section(budget=budget))
