"""The picture of the schedule in the documentation, drawn from the schedule itself."""

from __future__ import annotations

from spectune.adapter.schedule import RankSchedule
from spectune.training.learning_rate import resolve_learning_rate

_WIDTH, _HEIGHT, _LEFT, _TOP = 760, 260, 48, 20


def schedule_picture() -> str:
    """Budget and learning rate of a run of 1,000 steps with the defaults, as SVG."""
    schedule = RankSchedule(total_step=1000, tinit=100, tfinal=250, deltaT=3, init_r=32, target_r=8)
    rate = resolve_learning_rate(peak=1.0, kind="linear", warmup_ratio=None, schedule=schedule)
    steps = range(1, schedule.total_step + 1, 3)
    budget = [(step, schedule.budget(step, 3200, 800) / 3200) for step in steps]
    rates = [(step, rate.at(step)) for step in steps]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + 60}" font-family="sans-serif"',
        ' font-size="13" role="img" aria-label="Budget and learning rate over the steps of a run">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT + 60}" fill="#ffffff"/>',
    ]
    shades = {"warm-up": "#e8eef4", "decrease": "#f6efe0", "frozen": "#e9f2ea"}
    for phase, (first, last) in schedule.phases().items():
        left, right = _x(first - 1), _x(last)
        box = f'x="{left:.1f}" y="{_TOP}" width="{right - left:.1f}" height="{_HEIGHT - _TOP}"'
        parts.append(f'<rect {box} fill="{shades[phase]}"/>')
        parts.append(_label((left + right) / 2, _TOP + 16, phase))
    parts += [
        f'<polyline points="{_points(budget)}" fill="none" stroke="#0072b2" stroke-width="3"/>',
        f'<polyline points="{_points(rates)}" fill="none" stroke="#d55e00" stroke-width="2" stroke-dasharray="6 4"/>',
        f'<text x="{_x(600):.0f}" y="{_y(1 / 4) - 10:.0f}" fill="#0072b2">budget: 32 to 8 a matrix</text>',
        f'<text x="{_x(560):.0f}" y="{_y(0.52):.0f}" fill="#d55e00">learning rate, falling to 0</text>',
    ]
    marks = {"0": 0, "tinit": schedule.tinit, "freeze_step": schedule.freeze_step, "total_step": schedule.total_step}
    for name, step in marks.items():
        parts.append(_label(_x(step), _HEIGHT + 18, name))
    middle = (_x(schedule.freeze_step) + _x(schedule.total_step)) / 2
    parts.append(
        f'<text x="{middle:.1f}" y="{_HEIGHT + 40}" text-anchor="middle">tfinal: the length of this phase</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="middle">{text}</text>'


def _x(step: float) -> float:
    return _LEFT + (_WIDTH - 2 * _LEFT) * step / 1000


def _y(share: float) -> float:
    return _HEIGHT - (_HEIGHT - _TOP - 30) * share


def _points(values: list[tuple[int, float]]) -> str:
    return " ".join(f"{_x(step):.1f},{_y(share):.1f}" for step, share in values)
