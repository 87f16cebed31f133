"""Tables as plain text, from plain values: rank by layer and role, metrics, predictions.

Every function returns a string without colour codes, at most `width` columns wide, that reads the same in a terminal,
a log file and an issue.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from spectune.adapter.roles import TargetRole

WIDTH = 100
_WIDEST_NAME = len("exact_match")
MOST_LABELS_SHOWN = 12  # a larger confusion matrix is for summary.json alone

COLUMNS: Sequence[tuple[str, str, str]] = (
    *(("self_attention", role, f"self\n{role}") for role in "qkvo"),
    *(("cross_attention", role, f"cross\n{role}") for role in "qkvo"),
    *(("feed_forward", role, f"ffn\n{role}") for role in ("in", "gate", "out")),
)
"""Block, role and heading of the columns of the rank table."""

Place = tuple[str, int]
"""A row of the rank table: stack and layer."""

Cells = dict[tuple[str, str], int]
"""Rank by block and role."""


def rank_table(ranks: Mapping[str, int], roles: Mapping[str, TargetRole], *, width: int = WIDTH) -> str:
    """Live rank of every adapted matrix, one row per layer, one column per role.

    A dot stands where a layer has no such matrix; columns that no layer has are left out. Modules whose role is
    unknown, or whose place is taken by another, are listed by name below.

    Args:
        ranks: module name → live rank.
        roles: module name → role; may lack some.
        width: columns of the output.
    """
    headings, found, listed = rank_grid(ranks, roles)
    parts = []
    if found:
        rows = [[label, *("·" if rank is None else str(rank) for rank in cells)] for label, cells in found]
        parts.append(_grid(["layer", *headings], rows, "l" + "r" * len(headings), width))
    if listed:
        rows = [[name, str(rank)] for name, rank in listed.items()]
        parts.append(_grid(["module", "rank"], rows, "lr", width))
    parts.append(rank_line(ranks))
    return "\n".join(parts)


def rank_grid(
    ranks: Mapping[str, int], roles: Mapping[str, TargetRole]
) -> tuple[list[str], list[tuple[str, list[int | None]]], dict[str, int]]:
    """The cells of `rank_table`.

    Returns:
        Headings of the roles that occur; for each layer its label and ranks, None where it has no such matrix; and the
        ranks of modules without a place of their own.
    """
    by_place, listed = placed(ranks, roles)
    used = used_columns(by_place)
    rows: list[tuple[str, list[int | None]]] = [
        (f"{stack} {layer}", [cells.get((block, role)) for block, role, _ in used])
        for (stack, layer), cells in layers_in_order(by_place)
    ]
    return [heading for *_, heading in used], rows, listed


def rank_line(ranks: Mapping[str, int]) -> str:
    """Number of matrices, total and spread of their ranks."""
    return f"{len(ranks)} matrices, total rank {sum(ranks.values())}, {_spread(ranks.values())}"


def role_table(ranks: Mapping[str, int], roles: Mapping[str, TargetRole], *, width: int = WIDTH) -> str:
    """Matrices and live rank by stack and block (`role_summary`)."""
    rows = [
        [row["group"], str(row["matrices"]), str(row["total"]), f"{row['mean']:.1f}", str(row["min"]), str(row["max"])]
        for row in role_summary(ranks, roles)
    ]
    return _grid(["matrices of", "count", "total rank", "mean", "min", "max"], rows, "lrrrrr", width)


def role_summary(ranks: Mapping[str, int], roles: Mapping[str, TargetRole]) -> list[dict[str, Any]]:
    """Rank by stack and block: records `{"group", "matrices", "total", "mean", "min", "max"}`, largest mean first."""
    by_group: dict[str, list[int]] = {}
    for name, rank in ranks.items():
        by_group.setdefault(group_of(roles.get(name, TargetRole())), []).append(rank)
    records = [
        {
            "group": group,
            "matrices": len(values),
            "total": sum(values),
            "mean": sum(values) / len(values),
            "min": min(values),
            "max": max(values),
        }
        for group, values in by_group.items()
    ]
    return sorted(records, key=lambda record: (-record["mean"], record["group"]))


def group_of(role: TargetRole) -> str:
    """Stack and block in words: `decoder cross-attention`."""
    return " ".join(part for part in (role.stack, role.block.replace("_", "-")) if part) or "other"


def metrics_table(metrics: Mapping[str, Mapping[str, Any]], *, width: int = WIDTH) -> str:
    """Values with their signatures; `metrics` as in `summary.json`: name → {"value", "signature"}."""
    rows = [[name, f"{entry['value']:.4g}", str(entry["signature"])] for name, entry in metrics.items()]
    return _grid(["metric", "value", "signature"], rows, "lrl", width)


def sweep_table(points: Sequence[Mapping[str, Any]], *, width: int = WIDTH) -> str:
    """Metrics against budget.

    Args:
        points: records `{"limit", "triplets", "average_rank", "weights_bytes", "metrics"}`, metrics as in
            `summary.json`.
        width: columns of the output.
    """
    names = list(points[0]["metrics"]) if points else []
    rows = [
        [
            point["limit"],
            f"{point['triplets']:,}",
            f"{point['average_rank']:.2f}",
            f"{point['weights_bytes']:,}",
            *[f"{point['metrics'][name]['value']:.4g}" for name in names],
        ]
        for point in points
    ]
    # a heading that is long breaks between its words; a table that is too wide would break it anywhere
    headings = [name if len(name) <= _WIDEST_NAME else name.replace("_", "_\n") for name in names]
    headings = ["budget", "triplets", "average\nrank", "bytes", *headings]
    return _grid(headings, rows, "l" + "r" * (len(headings) - 1), width)


def confusion_table(confusion: Mapping[str, Any], *, width: int = WIDTH) -> str:
    """Counts of target label (rows) against prediction (columns); `confusion` as in `summary.json`."""
    rows = [
        [shorten(name, 20), *map(str, counts)]
        for name, counts in zip(confusion["rows"], confusion["counts"], strict=True)
    ]
    headings = ["target \\ predicted", *[shorten(name, 20) for name in confusion["columns"]]]
    return _grid(headings, rows, "l" + "r" * len(confusion["columns"]), width)


def predictions_table(
    predictions: Iterable[Mapping[str, Any]], *, rows: int = 5, text_width: int = 160, width: int = WIDTH
) -> str:
    """The first `rows` predictions with their texts; `=` marks those that hit the target.

    Args:
        predictions: records as in `predictions.jsonl`: text, target, prediction, perhaps references.
        rows: how many to show.
        text_width: characters of a source text before it is shortened; outputs get the same.
        width: columns of the output.
    """
    shown: list[list[str]] = []
    for record in predictions:
        if len(shown) == rows:
            break
        texts = [shorten(record[key], text_width) for key in ("text", "target", "prediction")]
        shown.append([*texts, "=" if is_hit(record) else "≠"])
    return _grid(["text", "target", "prediction", ""], shown, "lllc", width)


def is_hit(record: Mapping[str, Any]) -> bool:
    """Whether a record of `predictions.jsonl` is right: equal to the target or a reference, outer white space aside."""
    accepted = record.get("references") or [record["target"]]
    return record["prediction"].strip() in [text.strip() for text in accepted]


def shorten(text: str, length: int) -> str:
    """`text` on one line, cut to `length` characters; what cannot be printed is shown as �.

    A data row is not trusted: an escape sequence in it must not reach the terminal.
    """
    line = " ".join(text.split())
    visible = "".join(char if char.isprintable() else "\ufffd" for char in line)
    return visible if len(visible) <= length else visible[: length - 1].rstrip() + "…"


def placed(ranks: Mapping[str, int], roles: Mapping[str, TargetRole]) -> tuple[dict[Place, Cells], dict[str, int]]:
    """Ranks by place and role, and those that have no place of their own by name."""
    columns = {column[:2] for column in COLUMNS}
    by_place: dict[Place, Cells] = {}
    listed: dict[str, int] = {}
    for name, rank in ranks.items():
        role = roles.get(name, TargetRole())
        column = (role.block, role.role)
        if role.layer is None or not role.stack or column not in columns:
            listed[name] = rank
            continue
        cells = by_place.setdefault((role.stack, role.layer), {})
        if column in cells:  # experts share a role
            listed[name] = rank
        else:
            cells[column] = rank
    return by_place, listed


def layers_in_order(by_place: Mapping[Place, Cells]) -> list[tuple[Place, Cells]]:
    """The layers of `placed`, the encoder's first."""
    return sorted(by_place.items(), key=lambda item: (item[0][0] != "encoder", item[0]))


def used_columns(by_place: Mapping[Place, Cells]) -> list[tuple[str, str, str]]:
    """Those of `COLUMNS` that any layer of `placed` has."""
    return [column for column in COLUMNS if any(column[:2] in cells for cells in by_place.values())]


def _spread(ranks: Iterable[int]) -> str:
    values = list(ranks)
    if not values:
        return "none adapted"
    return f"mean {sum(values) / len(values):.2f}, from {min(values)} to {max(values)}"


_JUSTIFY: Mapping[str, Literal["left", "right", "center"]] = {"l": "left", "r": "right", "c": "center"}


def _grid(headings: Sequence[str], rows: Iterable[Sequence[str]], alignment: str, width: int) -> str:
    """A table as text; `alignment` has one of l, r, c per column. Cells are taken as they are, markup included."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for heading, side in zip(headings, alignment, strict=True):
        table.add_column(heading, justify=_JUSTIFY[side], overflow="fold")
    for row in rows:
        table.add_row(*[Text(cell) for cell in row])
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_terminal=False, legacy_windows=False).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())
