"""A plot of samples over time as SVG: a panel for memory, a panel for descriptors, one line for each service."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from resources import Sample

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 860, 230, 62, 110, 28, 46
COLORS = ("#1b6ca8", "#c0392b", "#27856a", "#8e5ea2", "#b8860b", "#5d6d7e", "#d2691e")
POINTS_MAX = 600  # of a line
TICKS = 4
MEGABYTE = 1_000_000


def write_plot(path: Path, samples: list[Sample], faults_s: list[float]) -> None:
    """Plot memory and descriptors of each service, and a tick for each fault."""
    panels: list[tuple[str, Callable[[Sample], float]]] = [
        ("resident memory, MB", lambda one: one.rss_bytes / MEGABYTE),
        ("descriptors", lambda one: float(one.descriptors)),
    ]
    height = TOP + len(panels) * (PANEL + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="white"/>'
    ]
    last_s = max((one.at_s for one in samples), default=1.0)
    for number, (title, value) in enumerate(panels):
        parts += _panel(title, samples, value, TOP + number * (PANEL + GAP), last_s, faults_s)
    path.write_text("\n".join([*parts, "</svg>\n"]))


def _panel(
    title: str,
    samples: list[Sample],
    value: Callable[[Sample], float],
    top: float,
    last_s: float,
    faults_s: list[float],
) -> list[str]:
    most = 1.1 * max((value(one) for one in samples), default=1.0)
    bottom, span = top + PANEL, WIDTH - LEFT - RIGHT

    def place(at_s: float, height: float) -> tuple[float, float]:
        return LEFT + span * at_s / last_s, bottom - PANEL * height / most

    parts = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{title}</text>']
    for tick in range(TICKS + 1):
        _, y = place(0.0, most * tick / TICKS)
        x, _ = place(last_s * tick / TICKS, 0.0)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * tick / TICKS:.0f}</text>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 26}" text-anchor="middle">{last_s * tick / TICKS:.0f} s</text>')
    for at_s in faults_s:
        x, _ = place(min(at_s, last_s), 0.0)
        parts.append(f'<path d="M{x:.1f} {bottom}v6" stroke="#c0392b" stroke-width="0.7"/>')
    names = list(dict.fromkeys(one.service for one in samples))
    for number, name in enumerate(names):
        color = COLORS[number % len(COLORS)]
        own = [one for one in samples if one.service == name]
        parts.append(f'<path d="{_line(own, value, place)}" fill="none" stroke="{color}" stroke-width="1.3"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 8}" y="{top + 12 + 16 * number}" fill="{color}">{name}</text>')
    return parts


def _line(
    samples: list[Sample], value: Callable[[Sample], float], place: Callable[[float, float], tuple[float, float]]
) -> str:
    """A stroke for each life: where the process changes, the pen is lifted."""
    steps, pid = [], None
    for one in samples[:: max(1, len(samples) // POINTS_MAX)]:
        x, y = place(one.at_s, value(one))
        steps.append(f"{'L' if one.pid == pid else 'M'}{x:.1f} {y:.1f}")
        pid = one.pid
    return "".join(steps)
