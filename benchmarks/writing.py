"""What a benchmark leaves behind: a table to read and a JSON file to compare with."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from benchmarks.machine import facts

RESULTS = Path(__file__).parent / "results"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table, numbers to the right."""
    heads = list(rows[0])
    numeric = [all(isinstance(row[head], int | float) for row in rows) for head in heads]
    cells = [heads, *([_text(row[head]) for head in heads] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(heads))]
    rule = [("-" * (width - 1) + ":") if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    lines = [_line(cells[0], widths, numeric), "| " + " | ".join(rule) + " |"]
    return "\n".join([*lines, *(_line(line, widths, numeric) for line in cells[1:])])


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if right else cell.ljust(width)
        for cell, width, right in zip(cells, widths, numeric, strict=True)
    ]
    return "| " + " | ".join(padded) + " |"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def write(name: str, results: Mapping[str, Any], device: torch.device, directory: Path = RESULTS) -> Path:
    """Write `results` with the command, versions and machine to `directory`/NAME.json; returns the path."""
    program = Path(sys.argv[0]).stem
    command = shlex.join(["python", "-m", f"benchmarks.{program}", *sys.argv[1:]])
    path = directory / f"{name}.json"
    directory.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"command": command, **facts(device), **results}, indent=2, ensure_ascii=False) + "\n")
    return path
