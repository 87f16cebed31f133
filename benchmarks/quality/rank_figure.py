"""Where the rank went, over seeds and tasks: a figure, and how far the runs agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from statistics import mean
from xml.sax.saxutils import escape

import numpy as np
from benchmarks.quality.results import Results
from benchmarks.quality.tasks import TASKS

from spectune.adapter.roles import TargetRole, role_of
from spectune.report.tables import rank_grid

Ranks = Mapping[str, int]
_LEFT, _TOP, _CELL, _ROW, _GAP = 96, 56, 44, 26, 28


def confirmed_ranks(results: Results, method: str, rank: int) -> dict[str, list[Ranks]]:
    """The final ranks of each seed, by task; of data that two tasks share, those of the first alone."""
    found: dict[str, list[Ranks]] = {}
    for key in results:
        wanted = (key.stage, key.method, key.rank) == ("confirm", method, rank) and not TASKS[key.task].file
        if wanted and "ranks" in results[key]:
            found.setdefault(key.task, []).append(results[key]["ranks"])
    return found


def agreement(found: Mapping[str, Sequence[Ranks]]) -> dict[str, float | None]:
    """Mean correlation of the ranks of two seeds of a task, and of two tasks; None without pairs."""
    within = [_correlation(*pair) for runs in found.values() for pair in combinations(runs, 2)]
    across = [_correlation(*pair) for one, other in combinations(found.values(), 2) for pair in product(one, other)]
    return {"seeds of one task": _mean(within), "different tasks": _mean(across)}


def parts(found: Mapping[str, Sequence[Ranks]]) -> dict[str, float]:
    """Mean rank of attention and feed-forward matrices, and of the lower and upper half of the layers."""
    groups: dict[str, list[int]] = {}
    for runs in found.values():
        for ranks in runs:
            for name, rank in ranks.items():
                for group in _groups(role_of(name), _depth(ranks)):
                    groups.setdefault(group, []).append(rank)
    return {group: mean(values) for group, values in sorted(groups.items())}


def figure(found: Mapping[str, Sequence[Ranks]]) -> str:
    """One heat map a task, mean rank over its seeds in each cell, as SVG."""
    grids = {task: _mean_grid(runs) for task, runs in found.items()}
    headings, rows = next(iter(grids.values()))
    wide, high = len(headings) * _CELL, len(rows) * _ROW
    highest = max(value for _, lines in grids.values() for _, cells in lines for value in cells if value is not None)
    width, height = _LEFT + wide + 16, len(grids) * (_TOP + high + _GAP)
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"',
        ' font-size="12" role="img" aria-label="Mean rank of every matrix after the freeze, by task">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, (task, (_, lines)) in enumerate(grids.items()):
        top = number * (_TOP + high + _GAP)
        drawn.append(f'<text x="8" y="{top + 18}" font-weight="bold">{escape(task)}</text>')
        drawn += [_heading(column, heading, top) for column, heading in enumerate(headings)]
        drawn += [part for place, line in enumerate(lines) for part in _line(line, top + _TOP + place * _ROW, highest)]
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _mean_grid(runs: Sequence[Ranks]) -> tuple[list[str], list[tuple[str, list[float | None]]]]:
    totals = {name: sum(ranks[name] for ranks in runs) for name in runs[0]}
    headings, rows, _ = rank_grid(totals, {name: role_of(name) for name in totals})
    return headings, [(label, [None if v is None else v / len(runs) for v in cells]) for label, cells in rows]


def _heading(column: int, heading: str, top: int) -> str:
    x = _LEFT + column * _CELL + _CELL / 2
    words = "".join(
        f'<tspan x="{x:.0f}" dy="{0 if number == 0 else 13}">{escape(word)}</tspan>'
        for number, word in enumerate(heading.split("\n"))
    )
    return f'<text y="{top + 34}" text-anchor="middle" font-size="10">{words}</text>'


def _line(line: tuple[str, list[float | None]], y: int, highest: float) -> list[str]:
    label, cells = line
    drawn = [f'<text x="8" y="{y + 17}">{escape(label)}</text>']
    for column, value in enumerate(cells):
        x = _LEFT + column * _CELL
        if value is None:
            continue
        share = value / highest if highest else 0.0
        shade = [round(light + (dark - light) * share) for light, dark in ((247, 8), (251, 48), (255, 107))]
        ink = "#ffffff" if share > 0.5 else "#1e1e1e"
        colour = f"rgb({','.join(map(str, shade))})"
        drawn.append(f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_ROW - 2}" fill="{colour}"/>')
        place = f'x="{x + _CELL / 2 - 1:.0f}" y="{y + 17}" text-anchor="middle"'
        drawn.append(f'<text {place} fill="{ink}">{value:.1f}</text>')
    return drawn


def _groups(role: TargetRole, depth: Mapping[str, int]) -> list[str]:
    kind = "feed-forward" if role.block == "feed_forward" else "attention"
    half = "lower half" if (role.layer or 0) < depth[role.stack] / 2 else "upper half"
    return [kind, f"{role.stack}, {half}"]


def _depth(ranks: Ranks) -> dict[str, int]:
    depth: dict[str, int] = {}
    for role in map(role_of, ranks):
        depth[role.stack] = max(depth.get(role.stack, 0), (role.layer or 0) + 1)
    return depth


def _correlation(one: Ranks, other: Ranks) -> float:
    names = list(one)
    return float(np.corrcoef([one[name] for name in names], [other[name] for name in names])[0, 1])


def _mean(values: Sequence[float]) -> float | None:
    return mean(values) if values else None
