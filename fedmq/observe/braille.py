"""Curves in text: eight dots per character, so that a terminal of 80 columns shows 160 points side by side."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
EMPTY = 0x2800  # the first of the 256 characters in Unicode's block of Braille patterns
# The bit of the dot in row 0 to 3 and column 0 or 1 of a character.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class Curve(NamedTuple):
    """Values at equal distances, and their rich style."""

    values: Sequence[float]
    style: str


def draw_curves(curves: Sequence[Curve], low: float, high: float, width: int, height: int) -> list[Text]:
    """Return `height` lines of `width` characters, top first; values beyond `low` and `high` lie on the edge.

    A character of two curves has the style of the first.
    """
    dots = [[0] * width for _ in range(height)]
    styles = [[""] * width for _ in range(height)]
    for curve in curves:
        before: int | None = None
        for column, value in enumerate(_stretched(curve.values, 2 * width)):
            share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
            row = round((1.0 - share) * (4 * height - 1))
            for between in _from_to(before, row):
                line, place = between // 4, column // 2
                dots[line][place] |= DOTS[between % 4][column % 2]
                styles[line][place] = styles[line][place] or curve.style
            before = row
    return [_line(*both) for both in zip(dots, styles, strict=True)]


def draw_blocks(values: Sequence[float], width: int) -> str:
    """Return one line of bars for the last `width` values, from zero up to the largest."""
    shown = values[-width:]
    largest = max(shown, default=0.0)
    if largest <= 0:
        return BLOCKS[0] * len(shown)
    return "".join(BLOCKS[min(int(value / largest * len(BLOCKS)), len(BLOCKS) - 1)] for value in shown)


def _stretched(values: Sequence[float], count: int) -> list[float]:
    """Interpolate `values` linearly to `count` values; fewer than two stay as they are."""
    if len(values) < 2:
        return list(values)
    places = np.arange(count) * (len(values) - 1) / (count - 1)
    stretched: list[float] = np.interp(places, np.arange(len(values)), values).tolist()
    return stretched


def _from_to(before: int | None, row: int) -> range:
    """Return the rows that join a column to the previous one."""
    if before is None or before == row:
        return range(row, row + 1)
    return range(row, before) if row < before else range(before + 1, row + 1)


def _line(dots: Sequence[int], styles: Sequence[str]) -> Text:
    text = Text(no_wrap=True)
    for style, group in groupby(zip(dots, styles, strict=True), key=lambda cell: cell[1]):
        text.append("".join(chr(EMPTY + bits) if bits else " " for bits, _ in group), style or None)
    return text
