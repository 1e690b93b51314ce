"""Curves in text: up to eight dots in a letter, so that a terminal of 80 columns shows 160 points side by side.

Knows nothing of what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
EMPTY = 0x2800  # the first of the 256 letters in Unicode's block of Braille patterns
# The bit of the dot in row 0 to 3 and column 0 or 1 of a letter.
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


class Curve(NamedTuple):
    """Values at equal distances, and the style of rich that they are drawn in."""

    values: Sequence[float]
    style: str


def draw_curves(curves: Sequence[Curve], low: float, high: float, width: int, height: int) -> list[Text]:
    """`height` lines of `width` letters, the top one first; what is beyond `low` and `high` lies on the edge.

    Where two curves meet in one letter it has the style of the first.
    """
    dots = [[0] * width for _ in range(height)]
    styles = [[""] * width for _ in range(height)]
    for curve in curves:
        before: int | None = None
        for column, value in enumerate(_stretched(curve.values, 2 * width)):
            share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
            row = round((1.0 - share) * (4 * height - 1))
            for between in _from_to(before, row):
                line, letter = between // 4, column // 2
                dots[line][letter] |= DOTS[between % 4][column % 2]
                styles[line][letter] = styles[line][letter] or curve.style
            before = row
    return [_line(*both) for both in zip(dots, styles, strict=True)]


def draw_blocks(values: Sequence[float], width: int) -> str:
    """One line of bars from zero up to the largest value; of the last `width` values."""
    shown = values[-width:]
    largest = max(shown, default=0.0)
    if largest <= 0:
        return BLOCKS[0] * len(shown)
    return "".join(BLOCKS[min(int(value / largest * len(BLOCKS)), len(BLOCKS) - 1)] for value in shown)


def _stretched(values: Sequence[float], count: int) -> list[float]:
    """`count` values along the line through `values`; none of none."""
    if len(values) < 2:
        return list(values)
    found = []
    for index in range(count):
        place = index * (len(values) - 1) / (count - 1)
        left = min(int(place), len(values) - 2)
        found.append(values[left] + (values[left + 1] - values[left]) * (place - left))
    return found


def _from_to(before: int | None, row: int) -> range:
    """The rows that join two columns; the column before has its own end already."""
    if before is None or before == row:
        return range(row, row + 1)
    return range(row, before) if row < before else range(before + 1, row + 1)


def _line(dots: Sequence[int], styles: Sequence[str]) -> Text:
    text = Text(no_wrap=True)
    letters = zip(dots, styles, strict=True)
    for style, group in groupby(letters, key=lambda letter: letter[1]):
        text.append("".join(chr(EMPTY + bits) if bits else " " for bits, _ in group), style or None)
    return text
