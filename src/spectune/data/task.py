"""What kind of task the data is, and how its labels are written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from spectune.config import DataConfig, Task
from spectune.data.labels import LabelNames, canonical_label, read_label_names
from spectune.data.locations import resolve_data_path
from spectune.data.table import Table
from spectune.data.verbalizer import Verbalizer
from spectune.errors import DataError


@dataclass(frozen=True, slots=True)
class NamedLabels:
    """Label names, and where they were found."""

    names: LabelNames
    origin: str


def resolve_task(config: DataConfig, table: Table, target: str | None) -> Task:
    """The task the run file gives, else classification if anything says so, else text2text."""
    if config.task is not None:
        return config.task
    if config.label_names is not None or target == "label" or target in table.label_names:
        return "classification"
    return "text2text"


def label_names(config: DataConfig, table: Table, target: str) -> NamedLabels | None:
    """The names given in the run file, else those the data brings; None when labels are to be written as themselves."""
    if isinstance(config.label_names, str):
        return NamedLabels(read_label_names(config.label_names), str(resolve_data_path(config.label_names)))
    if config.label_names is not None:
        return NamedLabels(config.label_names, "data.label_names")
    if target in table.label_names:
        # the column holds their numbers, whatever the names look like: `class_encode_column` sorts "10" before "2"
        return NamedLabels(dict(enumerate(table.label_names[target])), f"{table.origin}, column {target!r}")
    return None


def make_verbalizer(named: NamedLabels | None, tables: Iterable[Table], target: str) -> Verbalizer:
    """The label map of a run. Raises DataError: not a bijection, or no labels at all."""
    labels: set[str] = set()
    origin = f"column {target!r}"
    for table in tables:
        found = (canonical_label(table.value(index, target)) for index in range(len(table.rows)))
        labels.update(label for label in found if label is not None)
        origin = f"{table.origin}, column {target!r}"
    if not labels:
        raise DataError(f"{origin} is empty in every row")
    if named is None:
        return Verbalizer.from_values(labels, origin)
    return Verbalizer.from_names(named.names, labels, named.origin)
