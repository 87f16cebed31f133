"""Rank of every matrix over the allocations: frames by time, tables by layer and role, means by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spectune.adapter.roles import role_of
from spectune.report.run_files import RunFiles
from spectune.report.tables import COLUMNS, group_of, layers_in_order, placed, used_columns
from spectune.report.values import entries, mapping, thinned, whole, wholes

MOST_FRAMES = 81


@dataclass(frozen=True)
class RankHistory:
    """Ranks at the start and after each allocation."""

    modules: list[str]
    steps: list[int]
    budgets: list[int | None]
    frames: list[list[int]]
    """For each of `steps`, the rank of each of `modules`."""

    @property
    def last(self) -> dict[str, int]:
        """Module → rank at the end."""
        return dict(zip(self.modules, self.frames[-1], strict=True)) if self.frames else {}

    @property
    def highest(self) -> int:
        """The largest rank of any time, at least 1."""
        return max((rank for frame in self.frames for rank in frame), default=0) or 1

    def thinned(self) -> RankHistory:
        """At most `MOST_FRAMES` of the frames, the first and the last among them."""
        chosen = thinned(len(self.steps), MOST_FRAMES)
        return RankHistory(
            self.modules,
            [self.steps[i] for i in chosen],
            [self.budgets[i] for i in chosen],
            [self.frames[i] for i in chosen],
        )


def rank_history(files: RunFiles) -> RankHistory:
    """What the journal's allocations say; else the summary's ranks alone, as one frame."""
    found = [(entry, wholes(entry.get("ranks"))) for entry in files.of("allocation")]
    found = [(entry, ranks) for entry, ranks in found if ranks]
    final = wholes(files.summary.get("ranks"))
    names = [name for name in entries(files.start.get("matrices")) if isinstance(name, str)]
    modules = list(found[0][1] if found else final or dict.fromkeys(names))
    history = RankHistory(modules, [], [], [])
    initial = _initial_rank(files)
    if modules and initial is not None:
        budget = mapping(files.start.get("budget"))
        _add(history, 0, whole(budget.get("initial")), dict.fromkeys(modules, initial))
    for entry, ranks in found:
        _add(history, entry["step"], whole(entry.get("budget")), ranks)
    if not found and final:
        _add(history, files.last_step or files.total_step or 0, None, final)
    return history


def _initial_rank(files: RunFiles) -> int | None:
    return whole(mapping(files.start.get("schedule")).get("init_r")) or whole(
        files.config.get("adapter", {}).get("init_r")
    )


def _add(history: RankHistory, step: int, budget: int | None, ranks: dict[str, int]) -> None:
    history.steps.append(step)
    history.budgets.append(budget)
    history.frames.append([ranks.get(name, 0) for name in history.modules])


def groups(modules: list[str]) -> dict[str, list[int]]:
    """`encoder self-attention`, … → positions of its modules, in the model's order."""
    found: dict[str, list[int]] = {}
    for position, name in enumerate(modules):
        found.setdefault(group_of(role_of(name)), []).append(position)
    order = [f"{stack} {block}" for stack in ("encoder", "decoder") for block in ("self-attention", "cross-attention")]
    order = [*order[:1], "encoder feed-forward", *order[2:], "decoder feed-forward"]
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def group_means(history: RankHistory) -> dict[str, list[float]]:
    """Mean rank of every group's matrices, for each of the history's steps."""
    return {
        name: [sum(frame[i] for i in positions) / len(positions) for frame in history.frames]
        for name, positions in groups(history.modules).items()
    }


def heat_tables(modules: list[str]) -> list[dict[str, Any]]:
    """One table for each stack: layers down, matrices across, in each cell the position of its module.

    Returns:
        `{"stack", "blocks": [(name, columns)], "columns": [role], "rows": [(layer, [position or None])]}`; what has no
        place of its own comes last, as `{"stack": "", "rows": [(module, [position])], …}`.
    """
    by_place, listed = placed(
        {name: position for position, name in enumerate(modules)}, {name: role_of(name) for name in modules}
    )
    tables = []
    for stack in dict.fromkeys(stack for (stack, _), _ in layers_in_order(by_place)):
        layers = {place: cells for place, cells in by_place.items() if place[0] == stack}
        columns = used_columns(layers)
        rows = [
            (str(layer), [cells.get(column[:2]) for column in columns]) for (_, layer), cells in layers_in_order(layers)
        ]
        blocks = [(block.replace("_", "-"), sum(column[0] == block for column in columns)) for block in _blocks()]
        tables.append(
            {
                "stack": stack,
                "blocks": [block for block in blocks if block[1]],
                "columns": [role for _, role, _ in columns],
                "rows": rows,
            }
        )
    if listed:
        rows = [(name, [position]) for name, position in listed.items()]
        tables.append({"stack": "", "blocks": [], "columns": ["rank"], "rows": rows})
    return tables


def _blocks() -> list[str]:
    return list(dict.fromkeys(block for block, *_ in COLUMNS))
