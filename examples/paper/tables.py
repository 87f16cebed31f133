"""Tables that the paper's run files need and the hub does not have in this shape, as JSON lines.

    python examples/paper/tables.py mnli|stsb|squad_v1|squad_v2 [DIRECTORY]

writes `train.jsonl`, `validation.jsonl` (MNLI: also `test.jsonl`) into `data/paper/NAME`, where the run files look for
them: under SPECTUNE_DATA when that is set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectune.data.locations import resolve_data_path

Row = Mapping[str, Any]
UNANSWERABLE = "unanswerable"


@dataclass(frozen=True)
class Source:
    """Where a table comes from on the hub, and what a row of it becomes."""

    dataset: str
    config: str | None
    splits: Mapping[str, str]
    """File → split."""
    made: Callable[[Row], dict[str, Any]]


def similarity(row: Row) -> dict[str, Any]:
    """STS-B: a score from 0 to 5 as a text, in steps of 0.2 (`3.8`)."""
    return {
        "sentence1": row["sentence1"],
        "sentence2": row["sentence2"],
        "target": f"{round(row['label'] * 5) / 5:.1f}",
    }


def answers(row: Row) -> dict[str, Any]:
    """SQuAD: the first answer to learn, all of them to compare with; a word of its own where there is none."""
    found = list(dict.fromkeys(text.strip() for text in row["answers"]["text"])) or [UNANSWERABLE]
    return {"question": row["question"].strip(), "context": row["context"], "target": found[0], "references": found}


def labelled(row: Row) -> dict[str, Any]:
    """MNLI as it is, without its numbering."""
    return {key: row[key] for key in ("premise", "hypothesis", "label")}


_USUAL = {"train": "train", "validation": "validation"}
SOURCES = {
    "mnli": Source(
        "nyu-mll/glue",
        "mnli",
        {"train": "train", "validation": "validation_matched", "test": "validation_mismatched"},
        labelled,
    ),
    "stsb": Source("nyu-mll/glue", "stsb", _USUAL, similarity),
    "squad_v1": Source("rajpurkar/squad", None, _USUAL, answers),
    "squad_v2": Source("rajpurkar/squad_v2", None, _USUAL, answers),
}


def write_tables(name: str, splits: Mapping[str, Iterable[Row]], directory: Path) -> list[Path]:
    """The files of one task, from the hub's splits."""
    directory.mkdir(parents=True, exist_ok=True)
    source = SOURCES[name]
    written = []
    for file, split in source.splits.items():
        path = directory / f"{file}.jsonl"
        lines = [json.dumps(source.made(row), ensure_ascii=False) + "\n" for row in splits[split]]
        path.write_text("".join(lines), encoding="utf-8", newline="\n")
        written.append(path)
    return written


def main(words: list[str]) -> None:
    """Fetch one data set from the hub and write its files."""
    if not 1 <= len(words) <= 2 or words[0] not in SOURCES:
        sys.exit(f"give one of {', '.join(SOURCES)}, and a directory if it is to be another than data/paper/NAME")
    from datasets import load_dataset

    source = SOURCES[words[0]]
    directory = Path(words[1]) if len(words) > 1 else resolve_data_path(f"data/paper/{words[0]}")
    for path in write_tables(words[0], load_dataset(source.dataset, source.config), directory):
        print(path)


if __name__ == "__main__":
    main(sys.argv[1:])
