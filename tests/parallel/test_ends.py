"""Stopped, killed, refused: all processes end, one of them says why, and the run goes on bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.parallel.conftest import Config, Group, configuration, every_step, same_end


@pytest.fixture(scope="module")
def whole(group: Group, bases: dict[str, Path], table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes with dropout that nothing stopped, with a checkpoint of every step."""
    output = tmp_path_factory.mktemp("whole") / "run"
    return every_step(group, configuration(bases["t5"], table, output))


@pytest.fixture
def config(bases: dict[str, Path], table: Path, tmp_path: Path) -> Config:
    return configuration(bases["t5"], table, tmp_path / "run")


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6, 7, 8, 9, 11, 13])
def test_resume_is_bitwise(group: Group, config: Config, whole: Path, step: int) -> None:
    """In the warm-up, at every allocation, before and after the freeze at 8, and to the last step but one."""
    found = group.run(2, config, resume=str(whole / "checkpoints" / f"step-{step}"))
    assert [one["error"] for one in found] == [None, None], found
    assert same_end(config, whole)


@pytest.mark.parametrize("size", [1, 3])
def test_another_number_of_processes_goes_on(group: Group, config: Config, whole: Path, size: int) -> None:
    found = group.run(size, config, resume=str(whole / "checkpoints" / "step-7"))
    assert [one["error"] for one in found] == [None] * size, found
    assert len(found[0]["sent"]) == 7
    assert all(one["summary"]["reload_identical"] for one in found)
    assert len({tuple(one["drawn"]) for one in found}) == size


def test_a_run_of_epochs_asks_for_its_steps(group: Group, config: Config, tmp_path: Path) -> None:
    """An epoch of five steps has ten with one process."""
    config["train"] |= {"max_steps": None, "num_train_epochs": 2.8, "save_steps": 7, "save_total_limit": 20}
    assert [one["error"] for one in group.run(2, config)] == [None, None]
    place = str(tmp_path / "run" / "checkpoints" / "step-7")
    config["train"]["output_dir"] = str(tmp_path / "other")
    [found] = group.run(1, config, resume=place)
    assert "the run would have 28 steps instead of 14; give train.max_steps=14, or start 2" in found["message"]
    config["train"]["max_steps"] = 14
    [found] = group.run(1, config, resume=place)
    assert found["error"] is None, found


def test_sigterm_to_one_process_stops_all_with_a_checkpoint(group: Group, config: Config, whole: Path) -> None:
    found = group.run(2, config, rank1={"fault": ("SIGTERM", 5)})
    assert [(one["error"], one["status"]) for one in found] == [("Interrupted", 143)] * 2
    assert [path.name for path in (Path(config["train"]["output_dir"]) / "checkpoints").iterdir()] == ["step-5"]
    assert [one["error"] for one in group.run(2, config, resume=True)] == [None, None]
    assert same_end(config, whole)


def test_a_killed_process_ends_the_others(group: Group, config: Config, whole: Path) -> None:
    config["train"]["save_steps"] = 4
    first, second = group.run(2, config, rank1={"fault": ("SIGKILL", 6)})
    assert second == {"error": "died", "signal": 9}
    assert first["error"] == "RunError"
    assert first["message"].startswith("another process of the run has ended; continue with: spectune train ")
    config["train"].pop("save_steps")
    assert [one["error"] for one in group.run(2, config, resume=True)] == [None, None]
    assert same_end(config, whole)


def test_a_stream_that_breaks_off_in_one_process(group: Group, config: Config, tmp_path: Path) -> None:
    """The others have read their windows by then; all of them go on from before these."""
    config["data"]["validation_split"] = None
    config["data"] |= {"streaming": True, "shuffle_buffer_size": 8}
    config["adapter"]["init"] = "random"
    whole = every_step(group, changed(config, train={"output_dir": str(tmp_path / "whole")}))
    found = group.run(2, config, rank1={"fault": ("stream", 6)})
    assert [one["error"] for one in found] == ["ElsewhereError", "DataError"], found
    assert found[1]["message"].startswith("the stream has broken off; continue with: spectune train ")
    assert [path.name for path in (Path(config["train"]["output_dir"]) / "checkpoints").iterdir()] == ["step-5"]
    found = group.run(2, config, resume=True)
    assert [one["error"] for one in found] == [None, None], found
    assert same_end(config, whole)


def changed(config: Config, **sections: dict[str, Any]) -> Config:
    return {name: values | sections.get(name, {}) for name, values in config.items()}


def test_other_rows_in_a_process_are_refused(group: Group, config: Config, table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text(table.read_text("utf-8").replace("sales", "debts"), encoding="utf-8")
    found = group.run(2, config, rank1={"config": changed(config, data={"train_file": str(other)})})
    assert sorted(one["error"] for one in found) == ["ElsewhereError", "RunError"]
    [message] = [one["message"] for one in found if one["error"] == "RunError"]
    assert "the processes do not run the same: data.train differs between process 0 and process 1" in message


def test_another_setting_in_a_process_is_refused(group: Group, config: Config) -> None:
    found = group.run(2, config, rank1={"config": changed(config, train={"save_steps": 3})})
    [message] = [one["message"] for one in found if one["error"] == "RunError"]
    assert "train.save_steps differs" in message


def test_what_the_first_collectives_depend_on_is_compared_before_them(group: Group, config: Config) -> None:
    for other in ({"config": changed(config, train={"fsdp": True})}, {"resume": True}):
        found = group.run(2, config, rank1=other)
        assert "RunError" in [one["error"] for one in found], found
        [message] = [one["message"] for one in found if one["error"] == "RunError"]
        assert message.startswith(
            (
                "the processes do not run the same: train.fsdp differs",
                "the processes do not run the same: --resume differs",
            )
        )


@pytest.mark.parametrize(
    ("rank", "fault", "expected"),
    [
        (1, ("drift", 6), "the processes keep different triplets at step 6"),
        (1, ("memory", 3), "out of memory in a training step of 4 rows"),
        (0, ("disk", 0), "the checkpoint of step 14 cannot be written (the machine: No space left on device"),
    ],
)
def test_one_process_says_what_is_wrong(
    group: Group, config: Config, rank: int, fault: tuple[str, int], expected: str
) -> None:
    faults: dict[str, Any] = {f"rank{rank}": {"fault": fault}}
    found = group.run(2, config, **faults)
    assert sorted(one["error"] for one in found) == ["ElsewhereError", "RunError"], [
        one.get("message") for one in found
    ]
    [message] = [one["message"] for one in found if one["error"] == "RunError"]
    assert message.startswith(expected), message
