"""A run directory read for its report: whatever of it can be read, and a line on each thing that cannot."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectune.adapter.schedule import RankSchedule
from spectune.data.wording import count, some
from spectune.errors import ConfigError, RunError, one_line
from spectune.report.tables import is_hit
from spectune.report.values import clean, mapping, number, whole, wholes
from spectune.yaml_text import read_yaml

JOURNAL, SUMMARY, RUN_FILE, PREDICTIONS, TEST = (
    "journal.jsonl",
    "summary.json",
    "run.yaml",
    "predictions.jsonl",
    "test_predictions.jsonl",
)


@dataclass(frozen=True)
class Prediction:
    """One row of the last evaluation."""

    split: str
    row: int
    """Its line in the file, from 1."""
    text: str
    targets: list[str]
    prediction: str
    right: bool


@dataclass(frozen=True)
class RunFiles:
    """What the files of a run say."""

    directory: Path
    config: dict[str, dict[str, Any]]
    """The sections of `run.yaml`; empty if it cannot be read."""
    events: list[dict[str, Any]]
    """The journal's objects, each with a text `event` and a whole number `step`."""
    summary: dict[str, Any]
    """Empty while the run is unfinished."""
    predictions: list[Prediction]
    missing: list[str]
    """One line on each thing that is not there."""

    @property
    def name(self) -> str:
        """The directory's own name."""
        return clean(str(self.directory.resolve().name)) or "run"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.summary)

    def of(self, event: str) -> list[dict[str, Any]]:
        """The journal's events of one kind, in order."""
        return [entry for entry in self.events if entry["event"] == event]

    @property
    def start(self) -> dict[str, Any]:
        """What was known before the first step; empty in journals of runs that did not write it."""
        return next(iter(self.of("start")), {})

    @property
    def last_step(self) -> int:
        """The last optimizer step the journal tells of."""
        return max((entry["step"] for entry in self.events), default=0)

    @property
    def total_step(self) -> int | None:
        """Optimizer steps of the whole run, where a file says so."""
        return whole(mapping(self.start.get("schedule")).get("total_step")) or whole(self.summary.get("total_steps"))

    def phases(self) -> dict[str, tuple[int, int]]:
        """Phase → first and last step, in order."""
        try:
            schedule = RankSchedule(**wholes(self.start.get("schedule")))
            return {str(phase): bounds for phase, bounds in schedule.phases().items()}
        except (TypeError, ConfigError):  # an older or a damaged journal
            found = {}
            for entry in self.of("phase"):
                first, last = whole(entry.get("first")), whole(entry.get("last"))
                if first is not None and last is not None and first <= last:
                    found[str(entry.get("phase"))] = (first, last)
            return found


def read_run(directory: Path) -> RunFiles:
    """Read what there is.

    Raises:
        RunError: no such directory, or it holds no file of a run.
    """
    if not directory.is_dir():
        problem = "is a file, not a run directory" if directory.exists() else "does not exist"
        raise RunError(f"{directory} {problem}; name the train.output_dir of a run")
    if not any((directory / name).is_file() for name in (JOURNAL, SUMMARY, RUN_FILE)):
        inner = "; it is an adapter: name the run directory around it" if _is_adapter(directory) else ""
        raise RunError(f"{directory} is no run directory: it has none of {JOURNAL}, {SUMMARY}, {RUN_FILE}{inner}")
    missing: list[str] = []
    config = _read_config(directory / RUN_FILE, missing)
    events = _read_journal(directory / JOURNAL, missing)
    summary = _read_summary(directory / SUMMARY, missing)
    predictions = _read_predictions(directory / PREDICTIONS, _split(events), missing if summary else [])
    if (directory / TEST).exists():
        predictions += _read_predictions(directory / TEST, "test", missing)
    files = RunFiles(directory, config, events, summary, predictions, missing)
    if not (directory / SUMMARY).exists():
        missing.insert(0, _unfinished(files))
    if events and not files.start:
        missing.append(f"{JOURNAL} has no entry of the start: lengths, truncation and sizes of the data are not shown")
    return files


def _split(events: list[dict[str, Any]]) -> str:
    """Whose rows the last evaluation generates for: the first training rows where there are no validation rows."""
    start = next((entry for entry in events if entry["event"] == "start"), {})
    splits = mapping(mapping(start.get("data")).get("splits"))
    return "train" if splits and "validation" not in splits else "validation"


def _is_adapter(directory: Path) -> bool:
    return (directory / "adapter_config.json").is_file()


def _unfinished(files: RunFiles) -> str:
    total = files.total_step
    reached = f"step {files.last_step:,}" + (f" of {total:,}" if total else "")
    lacking = ["final metrics", "confusion matrix", "timings", "saved parameters"]
    if not files.predictions:
        lacking.append("predictions")
    return f"the run is unfinished (the journal ends at {reached}): no {', '.join(lacking)} yet"


def _read_config(path: Path, missing: list[str]) -> dict[str, dict[str, Any]]:
    text = _read(path, "settings", missing)
    if text is None:
        return {}
    try:
        sections = mapping(clean(read_yaml(text, RUN_FILE)))
        return {name: section for name, section in sections.items() if isinstance(section, dict)}
    except (ConfigError, RecursionError) as error:
        missing.append(f"settings: {one_line(str(error))}")
        return {}


def _read_journal(path: Path, missing: list[str]) -> list[dict[str, Any]]:
    text = _read(path, "curves, ranks over time, lengths and scores", missing)
    events, damaged = [], []
    for position, entry in _json_lines(text or ""):
        if isinstance(entry, dict) and isinstance(entry.get("event"), str) and whole(entry.get("step")) is not None:
            events.append(entry)
        else:
            damaged.append(position)
    if damaged:
        missing.append(f"{JOURNAL}: {_lines(damaged)}")
    return events


def _read_summary(path: Path, missing: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}  # `_unfinished` says it
    what = "final metrics, confusion matrix, timings and saved parameters"
    text = _read(path, what, missing)
    if text is None:
        return {}
    try:
        summary = mapping(clean(json.loads(text)))
    except (ValueError, RecursionError) as error:
        missing.append(f"{SUMMARY} cannot be read ({one_line(str(error))}): {what} are not shown")
        return {}
    if not summary:
        missing.append(f"{SUMMARY} holds nothing: {what} are not shown")
    return summary


def _read_predictions(path: Path, split: str, missing: list[str]) -> list[Prediction]:
    text = _read(path, f"predictions of the {split} rows", missing)
    found, damaged = [], []
    for position, record in _json_lines(text or ""):
        prediction = _prediction(record, split, position)
        if prediction is None:
            damaged.append(position)
        else:
            found.append(prediction)
    if damaged:
        missing.append(f"{path.name}: {_lines(damaged)}")
    return found


def _prediction(record: Any, split: str, row: int) -> Prediction | None:
    texts = [mapping(record).get(key) for key in ("text", "target", "prediction")]
    if not all(isinstance(text, str) for text in texts):
        return None
    references = record.get("references")
    targets = references if isinstance(references, list) and references else [record["target"]]
    if not all(isinstance(target, str) for target in targets):
        return None
    return Prediction(split, row, record["text"], targets, record["prediction"], is_hit(record))


def _read(path: Path, what: str, missing: list[str]) -> str | None:
    """The file's text; None, and a line, where it cannot be read. Bytes that are no UTF-8 become �."""
    if not path.is_file():
        missing.append(f"{path.name} is missing: {what} are not shown")
        return None
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        missing.append(f"{path.name} cannot be read ({error.strerror}): {what} are not shown")
        return None


def _json_lines(text: str) -> Iterator[tuple[int, Any]]:
    """(line from 1, its value or None) of every line that is not empty."""
    for position, line in enumerate(text.split("\n"), start=1):  # a text may hold other breaks
        if not line.strip():
            continue
        try:
            yield position, clean(json.loads(line))
        except (ValueError, RecursionError):
            yield position, None


def _lines(positions: list[int]) -> str:
    verb = "is" if len(positions) == 1 else "are"
    return f"{count(len(positions), 'line')} ({some(positions)}) {verb} damaged and left out"


def series(events: list[dict[str, Any]], key: str) -> tuple[list[int], list[float | None]]:
    """Steps and values of the events that have `key`; a value that is no number is None, a gap."""
    having = [entry for entry in events if key in entry]
    return [entry["step"] for entry in having], [number(entry[key]) for entry in having]
