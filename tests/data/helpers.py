"""Small tables and examples for the tests of the data flow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from spectune.config import DataConfig
from spectune.data.examples import Example
from spectune.data.tokenization import TokenizedSet, Truncation
from spectune.errors import UserError

REVIEWS = [
    {"text": "profit rose", "label": "2"},
    {"text": "profit fell", "label": "0"},
    {"text": "no change", "label": "1"},
    {"text": "profit rose again", "label": "2"},
]
NAMES: dict[int | str, str] = {0: "negative", 1: "neutral", 2: "positive"}


def write(path: Path, content: str | bytes) -> Path:
    """Writes a file as it stands."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes JSON lines."""
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def config_for(path: Path, **settings: Any) -> DataConfig:
    """A data section with one training file and no validation unless asked for."""
    return DataConfig(**{"train_file": str(path), "validation_split": None, **settings})


def example(row: int, source: str, target: str = "t", label: str | None = None) -> Example:
    """An example with one reference."""
    return Example(row=row, source=source, target=target, label=label, references=(target,))


def tokenized(lengths: Sequence[tuple[int, int]]) -> TokenizedSet:
    """Rows of the given source and target lengths; every id tells its row."""
    return TokenizedSet(
        input_ids=[[row + 10] * source for row, (source, _) in enumerate(lengths)],
        labels=[[row + 10] * target for row, (_, target) in enumerate(lengths)],
        truncation=Truncation(rows=len(lengths), sources_cut=0, targets_cut=0, longest_source=0, longest_target=0),
        unfaithful_targets=0,
        tokens=0,
        seconds=0.0,
    )


def line_of(error: pytest.ExceptionInfo[UserError]) -> str:
    """The message, which must be one line."""
    text = str(error.value)
    assert "\n" not in text
    return text
