"""Where the rank went, as a picture: one row per layer, one column per role, the darker the higher the rank.

Drawn with Pillow, which needs no browser and no display.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from spectune.adapter.roles import TargetRole
from spectune.report.tables import rank_grid, rank_line, shorten

_CELL, _ROW, _MARGIN, _FONT = 64, 30, 24, 15  # pixels
_LONGEST_NAME = 80
_LIGHT, _DARK = (247, 251, 255), (8, 48, 107)
_INK, _PAPER, _ABSENT = (30, 30, 30), (255, 255, 255), (238, 238, 238)
Colour = tuple[int, int, int]


def rank_png(ranks: Mapping[str, int], roles: Mapping[str, TargetRole]) -> bytes:
    """A PNG file with the cells of `tables.rank_table`.

    Args:
        ranks: module name → rank.
        roles: module name → role; may lack some.
    """
    from PIL import Image, ImageDraw, ImageFont

    headings, rows, listed = rank_grid(ranks, roles)
    rows += [(shorten(name, _LONGEST_NAME), [rank]) for name, rank in listed.items()]
    columns = max([len(headings), *(len(cells) for _, cells in rows)], default=1)
    font: Any = ImageFont.load_default(_FONT)
    line = rank_line(ranks)
    left = 2 * _MARGIN + max((round(font.getlength(label)) for label, _ in rows), default=0)
    width = max(left + columns * _CELL, 2 * _MARGIN + round(font.getlength(line))) + _MARGIN
    top = 3 * _MARGIN + 2 * _ROW
    image = Image.new("RGB", (width, top + len(rows) * _ROW + _MARGIN), _PAPER)
    draw: Any = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN), line, fill=_INK, font=font)
    for number, heading in enumerate(headings):
        place = (left + number * _CELL + _CELL / 2, top - _ROW)
        draw.multiline_text(place, heading, fill=_INK, font=font, anchor="mm", align="center")
    _draw_rows(draw, font, rows, left, top, max(ranks.values(), default=0))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _draw_rows(
    draw: Any, font: Any, rows: Sequence[tuple[str, Sequence[int | None]]], left: int, top: int, highest: int
) -> None:
    for number, (label, cells) in enumerate(rows):
        y = top + number * _ROW
        draw.text((_MARGIN, y + _ROW / 2), label, fill=_INK, font=font, anchor="lm")
        for column, rank in enumerate(cells):
            x = left + column * _CELL
            colour = _ABSENT if rank is None else _shade(rank, highest)
            draw.rectangle((x, y, x + _CELL - 2, y + _ROW - 2), fill=colour)
            if rank is not None:
                ink = _PAPER if rank > 0.55 * highest else _INK
                draw.text((x + _CELL / 2, y + _ROW / 2), str(rank), fill=ink, font=font, anchor="mm")


def _shade(rank: int, highest: int) -> Colour:
    share = rank / highest if highest else 0.0
    red, green, blue = (round(light + share * (dark - light)) for light, dark in zip(_LIGHT, _DARK, strict=True))
    return red, green, blue
