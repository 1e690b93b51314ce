"""Small charts as SVG: lines and bars that take their colors from the style of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from fedmq.runtime.printable import printable

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 12, 40  # margins
TICKS = 5


class Series(NamedTuple):
    """Points (x, y) that a line joins; `kind` is a class of the style: main, other or guide."""

    name: str
    points: Sequence[tuple[float, float]]
    kind: str = "main"
    dots: bool = False


def html_text(text: str) -> str:
    """Return text of other machines and files as HTML: printable, and no markup."""
    return escape(printable(text))


def line_chart(
    title: str,
    x_name: str,
    y_name: str,
    series: Sequence[Series],
    *,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Return lines over common axes; without a range, an axis fits the points."""
    points = [point for one in series for point in one.points if all(map(math.isfinite, point))]
    left, right = x_range or _range([x for x, _ in points])
    low, high = y_range or _range([y for _, y in points])

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return across, HEIGHT - BOTTOM - (y - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [_axes(left, right, low, high, x_name, y_name)]
    for one in series:
        placed = [place(x, y) for x, y in one.points if math.isfinite(x) and math.isfinite(y)]
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="{one.kind}" points="{text}"/>')
        if one.dots:
            parts += [f'<circle class="{one.kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in placed]
    legend = "".join(
        f'<span class="key {one.kind}">{html_text(one.name)}</span>' for one in series if one.name and len(series) > 1
    )
    return _figure(title, "".join(parts), legend)


def bar_list(title: str, bars: Sequence[tuple[str, float]], unit: str = "") -> str:
    """Return bars with names and values, the largest first, as a table that is also read without its bars."""
    top = max((abs(value) for _, value in bars), default=0.0) or 1.0
    rows = "".join(
        f'<tr><th scope="row">{html_text(name)}</th><td class="number">{value:.4g}{unit}</td>'
        f'<td class="bar"><span style="width:{abs(value) / top * 100:.1f}%"></span></td></tr>'
        for name, value in bars
    )
    return f'<table class="bars"><caption>{html_text(title)}</caption><tbody>{rows}</tbody></table>'


def histogram(heights: Sequence[float]) -> str:
    """Return a small histogram; empty without bars."""
    top = max(heights, default=0.0)
    if not top:
        return ""
    bars = "".join(
        f'<rect x="{4 * place}" y="{24 - 24 * height / top:.1f}" width="3" height="{24 * height / top:.1f}"/>'
        for place, height in enumerate(heights)
        if height
    )
    return f'<svg class="small" viewBox="0 0 {4 * len(heights)} 24" aria-hidden="true">{bars}</svg>'


def _figure(title: str, content: str, legend: str) -> str:
    return (
        f'<figure><figcaption>{html_text(title)}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{html_text(title)}">{content}</svg><div class="legend">{legend}</div></figure>'
    )


def _axes(left: float, right: float, low: float, high: float, x_name: str, y_name: str) -> str:
    parts = []
    for step in range(TICKS):
        share = step / (TICKS - 1)
        x = LEFT + share * (WIDTH - LEFT - RIGHT)
        y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{low + share * (high - low):.3g}</text>')
        below = f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
        parts.append(f"{below}{left + share * (right - left):.3g}</text>")
    middle = LEFT + (WIDTH - LEFT - RIGHT) / 2
    parts.append(f'<text class="name" x="{middle}" y="{HEIGHT - 5}" text-anchor="middle">{html_text(x_name)}</text>')
    turn = f'transform="rotate(-90)" x="{-(TOP + (HEIGHT - TOP - BOTTOM) / 2)}" y="13"'
    parts.append(f'<text class="name" {turn} text-anchor="middle">{html_text(y_name)}</text>')
    return "".join(parts)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low == high:
        return low - 0.5, high + 0.5
    return low, high
