"""Trackers get what the journal gets, under its names; they never cost the run."""

from __future__ import annotations

from collections import defaultdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.torture.world import as_if_killed_at
from tests.training.conftest import Run, journal

from spectune.errors import ConfigError, Interrupted
from spectune.training.trackers import check_trackers, flattened, names_of, tracked_values

pytestmark = pytest.mark.usefixtures("quick_proof")


class StandIn(GeneralTracker):  # type: ignore[misc]
    """Remembers; fails where it is told to."""

    name = "standin"
    requires_logging_directory = False
    made: list[StandIn]
    broken = ""

    def __init__(self, project: str) -> None:
        super().__init__()
        self.project, self.finished = project, False
        self.settings: dict[str, Any] = {}
        self.logged: dict[tuple[str, int], Any] = {}

    @property
    def tracker(self) -> Any:
        return self

    def start(self) -> None:
        type(self).made.append(self)
        self._break("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.settings = values

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        assert step is not None
        self.logged |= {(name, step): value for name, value in values.items()}
        self._break("log")

    def finish(self) -> None:
        self.finished = True
        self._break("finish")

    def _break(self, moment: str) -> None:
        if moment == self.broken:
            raise ConnectionError(f"no network at {moment}\nand more")


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> type[StandIn]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "standin", StandIn)
    monkeypatch.setattr(StandIn, "made", [], raising=False)
    monkeypatch.setattr(StandIn, "broken", "")
    return StandIn


EVALUATED: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 5, "eval_on_start": True}


def test_the_journal_under_its_names(run: Run, standin: type[StandIn]) -> None:
    result = run(train={"report_to": ["standin", "none"]}, evaluation=EVALUATED)
    (tracker,) = standin.made
    expected: dict[tuple[str, int], Any] = {}
    for event in journal(result):
        fields = {name: value for name, value in event.items() if name not in ("event", "step")}
        expected |= {(name, event["step"]): v for name, v in tracked_values(event["event"], fields).items()}
    assert tracker.logged == expected
    names = {name for name, _ in tracker.logged}
    assert {"loss", "penalty", "learning_rate", "live", "epoch", "tokens_per_second"} <= names
    assert {"exact_match", "eval_loss", "budget", "threshold", "ranks/mean", "ranks/zero"} <= names
    assert ("exact_match", 0) in tracker.logged
    assert tracker.project == "spectune"
    assert tracker.settings["adapter.init_r"] == 4
    assert tracker.settings["data.label_names.0"] == "negative"
    assert all(isinstance(value, bool | int | float | str) for value in tracker.settings.values())
    assert tracker.finished


@pytest.mark.parametrize("moment", ["start", "log", "finish"])
def test_a_tracker_that_fails_costs_one_warning(moment: str, run: Run, standin: type[StandIn]) -> None:
    standin.broken, screen = moment, StringIO()
    result = run(train={"report_to": "standin"}, screen=screen)
    assert result.summary["reload_identical"]
    assert screen.getvalue().count("the tracker standin failed and gets nothing more") == 1
    assert f"no network at {moment}" in screen.getvalue()
    assert "and more" not in screen.getvalue()


def test_an_interrupted_run_finishes_its_trackers(
    run: Run, standin: type[StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: StandIn, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        raise Interrupted(15)

    monkeypatch.setattr(StandIn, "log", interrupted)
    with pytest.raises(Interrupted):
        run(train={"report_to": "standin"})
    assert [tracker.finished for tracker in standin.made] == [True]


def scalars(directory: Path) -> dict[str, dict[int, float]]:
    """What tensorboard would show."""
    events = EventAccumulator(str(directory), purge_orphaned_data=True)
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_shows_the_run_also_when_it_was_resumed(run: Run, tmp_path: Path) -> None:
    train = {"report_to": "tensorboard", "save_steps": 1, "save_total_limit": 99}
    whole = run(train=train, evaluation=EVALUATED)
    shown = scalars(whole.directory / "tensorboard")
    expected: dict[str, dict[int, float]] = defaultdict(dict)
    for event in journal(whole):
        if event["event"] == "step":
            expected["loss"][event["step"]] = event["loss"]
        if event["event"] == "evaluation":
            expected["eval_loss"][event["step"]] = event["metrics"]["eval_loss"]
    for name, values in expected.items():
        assert shown[name] == pytest.approx(values)
    killed = tmp_path / "killed"
    as_if_killed_at(whole.directory, 7, killed)
    resumed = run(resume=True, train=train | {"output_dir": str(killed)}, evaluation=EVALUATED)
    again = scalars(killed / "tensorboard")
    assert again.keys() == shown.keys()
    assert all(again[name] == shown[name] for name in shown if name != "tokens_per_second")
    assert resumed.directory == killed
    run(overwrite=True, train={"report_to": "none"})
    assert not (whole.directory / "tensorboard").exists()


def test_a_missing_library_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"report_to comet_ml needs a library .*; pip install comet-ml"):
        check_trackers(["none", "comet_ml"])
    with pytest.raises(ConfigError, match=r"tensorbord is no tracker .*; did you mean tensorboard\?"):
        check_trackers("tensorbord")


def test_names_and_values() -> None:
    assert names_of("none") == names_of([]) == []
    assert names_of(["wandb", "none", "wandb", "trackio"]) == ["wandb", "trackio"]
    assert tracked_values("phase", {"first": 1}) == {}
    allocation = {"budget": 5, "threshold": 0.5, "ranks": {"a": 0, "b": 3}}
    found = {"budget": 5, "threshold": 0.5, "ranks/min": 0, "ranks/mean": 1.5, "ranks/max": 3, "ranks/zero": 1}
    assert tracked_values("allocation", allocation) == found
    assert flattened({"a": {"b": None, "c": [1, 2]}, "d": True}) == {"a.b": "None", "a.c": "[1, 2]", "d": True}
