"""How a run stands, on one screen of a terminal: what `fedmq watch` shows, and an aggregator while it runs.

Knows pictures of runs, nothing of how they come or of when the screen is drawn. It may be drawn on one thread while
another lets events into the picture: what it goes through it has copied before, in one step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmq.observe import events
from fedmq.observe.braille import Curve, draw_blocks, draw_curves
from fedmq.observe.event_text import best_text, describe, printable, value_text
from fedmq.observe.run_state import Condition, Presence, RoundView, RunState, TrainerView

CHART_LINES_MIN, CHART_LINES_MAX = 4, 12
FEED_LINES_MAX = 5
OTHER_LINES = 9  # the head, the foot of the chart, headings and the lines between
LABEL_LETTERS = 9  # of the chart's axis
BEST, MEAN = "bright_cyan", "yellow"  # told apart by who sees no red or green, too
PRESENCES: dict[Presence, str] = {"suspect": "yellow", "gone": "red", "alive": "green"}  # who is looked for goes first
# Any other is red.
COLOURS: dict[Condition, str] = {"solved": "green", "running": "green", "paused": "yellow", "waiting": "yellow"}


class Seen(NamedTuple):
    """A run as it is at one moment, `now` by its aggregator's clock; `here` says whether that is there."""

    view: RunState
    now: float
    here: bool

    @property
    def condition(self) -> Condition:
        """See `View.condition`."""
        return self.view.condition(self.now, here=self.here)

    @property
    def state(self) -> str:
        """See `View.state`."""
        return self.view.state(self.now, here=self.here)

    @property
    def left_s(self) -> float | None:
        """See `View.left_s`."""
        return self.view.left_s(self.now, here=self.here)

    @property
    def idle_s(self) -> float | None:
        """Seconds since something last moved; None when nothing is meant to."""
        if self.view.finished is not None or not self.view.progress_at:
            return None
        return max(0.0, self.now - self.view.progress_at)


def draw_run(seen: Seen, width: int, height: int) -> RenderableType:
    """The run on a screen of so many columns and lines."""
    view = seen.view
    view = replace(view, rounds=view.rounds[:], trainers=dict(view.trainers), feed=view.feed[:])
    seen, rounds, trainers = seen._replace(view=view), view.rounds, list(view.trainers.values())
    told = [(one.at, line) for one in view.feed if (line := _told(one.event, view.metric))]
    told = told[-min(FEED_LINES_MAX, height // 6) :]
    alarm = _alarm(seen)
    room = max(0, height - OTHER_LINES - len(alarm) - len(told))
    chart_lines = min(max(room - len(trainers), CHART_LINES_MIN), CHART_LINES_MAX)
    parts: list[RenderableType] = [_head(seen), _figures(seen), *alarm, Text()]
    parts += _chart([one for one in rounds if one.best is not None], width, chart_lines)
    parts += [_latencies(rounds, width), Text()]
    parts.append(_trainers(seen, trainers, width, max(1, room - chart_lines)))
    if told:
        parts.append(Text())
        parts += [Text(f"{_clock(at)}  {line}", style="dim", no_wrap=True, overflow="ellipsis") for at, line in told]
    return Group(*parts)


def draw_list(several: Sequence[Seen], height: int) -> RenderableType:
    """One line for each of several runs."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("run", "state", "task", "strategy"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for column in ("round", "of", "value", "trainers", "progress"):
        table.add_column(column, justify="right", no_wrap=True)
    shown = several[: max(1, height - 3)]
    for one in shown:
        view = one.view
        table.add_row(
            Text(printable(view.run), style="bold"),
            _state(one),
            Text(printable(view.task)),
            Text(printable(view.strategy)),
            str(view.newest.round if view.newest else 0),
            str(view.rounds_max or ""),
            "" if view.best is None else best_text(view.best, view.metric),
            str(view.present),
            _ago(one.idle_s),
        )
    more = [Text(f"and {len(several) - len(shown)} more", style="dim")] if len(shown) < len(several) else []
    return Group(table, *more)


def span(seconds: float) -> str:
    """A time that people can read."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


# --- the head ---------------------------------------------------------------------------------------------------------


def _head(seen: Seen) -> RenderableType:
    view = seen.view
    about = [view.task, view.strategy + (f" ({view.robust})" if view.robust else ""), f"seed {view.seed}"]
    title = Text.assemble((printable(view.run), "bold"), "  ", (printable(", ".join(about)) if view.run else "", "dim"))
    table = _sides()
    table.add_row(title, _state(seen))
    done = view.newest.round if view.newest is not None else 0
    total = view.rounds_max or done
    bar = Table.grid(padding=(0, 1))
    bar.add_row(
        Text.assemble("round ", (f"{done}", "bold"), f" of {total}"),
        ProgressBar(total=max(total, 1), completed=done, width=30, complete_style=BEST, finished_style=BEST),
    )
    table.add_row(bar, Text("" if seen.left_s is None else f"at most {span(seen.left_s)} left"))
    return table


def _figures(seen: Seen) -> RenderableType:
    view, best = seen.view, seen.view.best
    table = _sides()
    idle = "" if seen.idle_s is None else f"progress {_ago(seen.idle_s)}"
    if best is None:
        table.add_row(Text("nothing scored yet", style="dim"), Text(idle))
        return table
    target = "" if view.target is None else f" (target {value_text(view.target, view.metric)})"
    text = Text.assemble((best_text(best, view.metric), "bold"), target)
    text.append(f"   fitness best {best.fitness:.4f}", BEST).append(f"  mean {best.fitness_mean:.4f}", MEAN)
    table.add_row(text, Text(idle))
    return table


def _alarm(seen: Seen) -> list[RenderableType]:
    """A line that nobody overlooks when the run hangs; and whom it waits for, if that was told."""
    if seen.condition != "stalled":
        return []
    told = [one.event for one in seen.view.feed if one.at >= seen.view.progress_at]
    names = [name for event in told if isinstance(event, events.Stalled) for name in event.missing]
    missing = printable(f": nothing from {', '.join(names)}") if names else ""
    return [Text(f" {seen.state}{missing} ", style="bold white on red", no_wrap=True, overflow="ellipsis")]


# --- the curves -------------------------------------------------------------------------------------------------------


def _chart(rounds: Sequence[RoundView], width: int, height: int) -> list[RenderableType]:
    best = [one.best.fitness for one in rounds if one.best is not None]
    mean = [one.best.fitness_mean for one in rounds if one.best is not None]
    if not best:
        return [Text() for _ in range(height + 1)]
    # The first few means may be far below all that follows: a twentieth of the values may lie on the edge.
    ranked = sorted([*best, *mean])
    low, high = ranked[len(ranked) // 20], ranked[-1]
    curves = [Curve(best, BEST), Curve(mean, MEAN)]
    lines = draw_curves(curves, low, high, width - LABEL_LETTERS - 1, height)
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    drawn = [
        Text.assemble((f"{label:>{LABEL_LETTERS}} ", "dim"), line) for label, line in zip(labels, lines, strict=True)
    ]
    first, last = f"round {rounds[0].round}", f"{rounds[-1].round}"
    foot = " " * (LABEL_LETTERS + 1) + first + " " * max(1, width - LABEL_LETTERS - 1 - len(first) - len(last)) + last
    return [*drawn, Text(foot, style="dim", no_wrap=True)]


def _latencies(rounds: Sequence[RoundView], width: int) -> RenderableType:
    took = [one.round_s * 1000 for one in rounds if one.round_s is not None]
    if not took:
        return Text()
    said = f"  median {statistics.median(took):.1f} ms, last {took[-1]:.1f}, longest {max(took):.1f}"
    bars = draw_blocks(took, max(1, min(60, width - LABEL_LETTERS - 1 - len(said))))
    return Text.assemble((f"{'latency':>{LABEL_LETTERS}} ", "dim"), (bars, "blue"), (said, "dim"), no_wrap=True)


# --- the trainers -----------------------------------------------------------------------------------------------------

Cell = Callable[[Seen, TrainerView], str]
# heading: (what stands there, the columns that the screen must have)
COLUMNS: dict[str, tuple[Cell, int]] = {
    "rows": (lambda _, one: str(one.num_examples), 0),
    "results": (lambda _, one: str(one.results), 0),
    "share": (lambda seen, one: f"{one.results / max(1, seen.view.results):.0%}", 0),
    "late": (lambda _, one: str(one.late or ""), 100),
    "rejected": (lambda _, one: str(one.rejected or ""), 0),
    "seen": (lambda seen, one: _ago(max(0.0, seen.now - one.seen_at)), 0),
    "work": (lambda _, one: f"{one.train_s * 1000:.1f} ms" if one.results else "", 100),
    "trip": (lambda _, one: f"{one.round_trip_s * 1000:.1f} ms" if one.round_trip_s else "", 0),
    "cpu": (lambda _, one: f"{one.cpu:.0%}" if one.cpu_s else "", 80),
    "memory": (lambda _, one: f"{one.memory / 1e6:.0f} MB" if one.memory else "", 80),
}


def _trainers(seen: Seen, trainers: list[TrainerView], width: int, lines: int) -> RenderableType:
    """A line for each; if they are too many, those that are not alive go first, then by name."""
    if not trainers:
        return Text("no trainer yet", style="dim")
    ranks = {presence: rank for rank, presence in enumerate(PRESENCES)}
    urgent = sorted(trainers, key=lambda one: (ranks[one.presence], one.name))
    shown = urgent if len(urgent) <= lines else urgent[: max(1, lines - 1)]
    table = Table(box=None, padding=(0, 2 if width >= 120 else 1, 0, 0), header_style="dim")
    table.add_column("trainer", no_wrap=True, overflow="ellipsis", max_width=width // 6)
    table.add_column("", no_wrap=True)
    columns = {name: cell for name, (cell, needed) in COLUMNS.items() if width >= needed}
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    labelled = width >= 130 and any(one.labels for one in shown)
    if labelled:
        table.add_column("labels", no_wrap=True, overflow="ellipsis", max_width=width // 6)
    for one in sorted(shown, key=lambda one: one.name):
        state = Text(f"● {one.barred or one.presence}", style=PRESENCES[one.presence])
        labels = [Text(printable(", ".join(one.labels)))] if labelled else []
        table.add_row(Text(printable(one.name)), state, *(cell(seen, one) for cell in columns.values()), *labels)
    if len(shown) == len(trainers):
        return table
    rest = urgent[len(shown) :]
    counts = ((sum(one.presence == presence for one in rest), presence) for presence in PRESENCES)
    which = ", ".join(f"{count} {presence}" for count, presence in counts if count)
    return Group(table, Text(f"and {len(rest)} more ({which})", style="dim"))


# --- words ------------------------------------------------------------------------------------------------------------


def _told(event: events.AnyEvent, metric: str) -> str | None:
    """What is said of it below the trainers; rounds have their own place."""
    return None if isinstance(event, events.RoundClosed) else describe(event, metric)


def _state(seen: Seen) -> Text:
    return Text(f"● {seen.state}", style=f"bold {COLOURS.get(seen.condition, 'red')}", no_wrap=True)


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{span(seconds)} ago"


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))


def _sides() -> Table:
    """Two texts of a line, one at each side."""
    table = Table.grid(expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    return table
