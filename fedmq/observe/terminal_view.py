"""A run on one screen of a terminal, for `fedmq watch` and `fedmq aggregator`.

One thread may render while another applies events to the run state: rendering first copies each list in one step.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec.structs import replace
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedmq.observe import events
from fedmq.observe.braille import Curve, draw_blocks, draw_curves
from fedmq.observe.console import PrintableTable
from fedmq.observe.event_text import best_text, event_line, held_out_text, value_text
from fedmq.observe.run_state import Condition, ObservedRun, RoundRecord, TrainerPresence, TrainerRecord
from fedmq.runtime.clock import time_text

CHART_LINES_MIN, CHART_LINES_MAX = 4, 12
FEED_LINES_MAX = 5
OTHER_LINES = 9  # the head, the foot of the chart, headings and empty lines
LABEL_WIDTH = 9  # of the axis labels
LIST_GAP = 2  # between the columns of the list of runs
LIST_OPTIONAL = ("algorithm", "task", "of")  # columns that a narrow screen leaves out, in this order,
LIST_LEAST = {"state": 12, "run": 16, "value": 8}  # and those that shrink then, down to these widths
BEST, MEAN = "bright_cyan", "yellow"  # distinct with color blindness, too
PRESENCES: dict[TrainerPresence, str] = {"silent": "yellow", "suspect": "yellow", "gone": "red", "alive": "green"}
# Any other is red.
COLORS: dict[Condition, str] = {
    "solved": "green",
    "finished": "green",
    "running": "green",
    "paused": "yellow",
    "waiting": "yellow",
    "stopped": "yellow",
}


def render_run(run: ObservedRun, width: int, height: int) -> RenderableType:
    """Render one run for a screen of this many columns and lines."""
    state = run.run_state
    state = replace(state, rounds=state.rounds[:], trainers=dict(state.trainers), feed=state.feed[:])
    run, rounds, trainers = run._replace(run_state=state), state.rounds, list(state.trainers.values())
    unseen = [one for one in state.feed if not isinstance(one.event, events.RoundClosed)]  # the chart shows rounds
    feed = [(one.at, line) for one in unseen if (line := event_line(one.event, state.metric))]
    feed = feed[-min(FEED_LINES_MAX, height // 6) :]
    alarm = _alarm(run)
    measured = state.best is not None and state.best.value_of == "held-out"
    room = max(0, height - OTHER_LINES - measured - len(alarm) - len(feed))
    chart_lines = min(max(room - len(trainers), CHART_LINES_MIN), CHART_LINES_MAX)
    parts: list[RenderableType] = [_head(run), _figures(run), *alarm, Text()]
    parts += _chart([one for one in rounds if one.best is not None], width, chart_lines)
    parts += [_latencies(rounds, width), Text()]
    parts.append(_trainers(run, trainers, width, max(1, room - chart_lines)))
    if feed:
        parts.append(Text())
        parts += [Text(f"{_clock(at)}  {line}", style="dim", no_wrap=True, overflow="ellipsis") for at, line in feed]
    return Group(*parts)


def render_list(runs: Sequence[ObservedRun], width: int, height: int) -> RenderableType:
    """Render one line for each run. Columns that do not fit are left out; no heading and no number is cut."""
    shown = runs[: max(1, height - 3)]
    cells = {
        "run": [one.run_state.run for one in shown],
        "state": [f"● {one.status_text}" for one in shown],
        "task": [one.run_state.task for one in shown],
        "algorithm": [one.run_state.algorithm for one in shown],
        "round": [str(one.run_state.newest.round if one.run_state.newest else 0) for one in shown],
        "of": [str(one.run_state.rounds_max or "") for one in shown],
        "value": [best_text(best, one.run_state.metric) if (best := one.run_state.best) else "" for one in shown],
        "trainers": [str(one.run_state.present) for one in shown],
        "progress": [_ago(one.idle_s) for one in shown],
    }
    widths = _list_widths({name: max(map(len, [name, *texts])) for name, texts in cells.items()}, width)
    table = PrintableTable(box=None, padding=(0, LIST_GAP, 0, 0), header_style="dim")
    for name, most in widths.items():
        justify: Literal["left", "right"] = "left" if name in ("run", "state", "task", "algorithm") else "right"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", width=most)
    for line, one in enumerate(shown):
        styles = {"run": "bold", "state": f"bold {COLORS.get(one.condition, 'red')}"}
        texts = {name: cells[name][line] for name in widths}
        texts["run"] = _shortened(texts["run"], widths["run"])
        table.add_row(*(Text(text, style=styles.get(name, "")) for name, text in texts.items()))
    more = [Text(f"and {len(runs) - len(shown)} more", style="dim")] if len(shown) < len(runs) else []
    return Group(table, *more)


def _list_widths(widths: dict[str, int], most: int) -> dict[str, int]:
    """Return the width of each column of the list on a screen of `most` columns."""

    def excess() -> int:
        return sum(widths.values()) + LIST_GAP * len(widths) - most

    for name in LIST_OPTIONAL:
        if excess() > 0:
            widths = {other: width for other, width in widths.items() if other != name}
    for name, least in LIST_LEAST.items():
        widths[name] -= max(0, min(excess(), widths[name] - least))
    return widths


def _shortened(name: str, width: int) -> str:
    """Return a name with its middle left out: names of runs differ at their ends."""
    if len(name) <= width:
        return name
    tail = (width - 1) * 2 // 3
    return f"{name[: width - 1 - tail]}…{name[-tail:]}"


def span(seconds: float) -> str:
    """Return a duration as text."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h"


# --- the head ---------------------------------------------------------------------------------------------------------


def _head(run: ObservedRun) -> RenderableType:
    state = run.run_state
    about = [state.task, state.algorithm + (f" ({state.robust})" if state.robust else ""), f"seed {state.seed}"]
    title = Text.assemble((state.run, "bold"), "  ", (", ".join(about) if state.run else "", "dim"))
    table = _sides()
    table.add_row(title, _status(run))
    done = state.newest.round if state.newest is not None else 0
    total = state.rounds_max or done
    bar = PrintableTable.grid(padding=(0, 1))
    bar.add_row(
        Text.assemble("round ", (f"{done}", "bold"), f" of {total}"),
        ProgressBar(total=max(total, 1), completed=done, width=30, complete_style=BEST, finished_style=BEST),
    )
    table.add_row(bar, Text("" if run.left_s is None else f"at most {span(run.left_s)} left"))
    return table


def _figures(run: ObservedRun) -> RenderableType:
    state, best = run.run_state, run.run_state.best
    table = _sides()
    idle = "" if run.idle_s is None else f"progress {_ago(run.idle_s)}"
    if best is None:
        table.add_row(Text("nothing scored yet", style="dim"), Text(idle))
        return table
    target = "" if state.target is None else f" (target {value_text(state.target, state.metric)})"
    text = Text.assemble((best_text(best, state.metric), "bold"), target)
    text.append(f"   fitness best {best.fitness:.4f}", BEST).append(f"  mean {best.fitness_mean:.4f}", MEAN)
    table.add_row(text, Text(idle))
    if more := held_out_text(best, state.metric):
        table.add_row(Text(f"held out: {more}"), Text())
    return table


def _alarm(run: ObservedRun) -> list[RenderableType]:
    """Return a prominent line while the run is stalled, with the missing trainers if known."""
    if run.condition != "stalled":
        return []
    recent = [one.event for one in run.run_state.feed if one.at >= run.run_state.progress_at]
    names = [name for event in recent if isinstance(event, events.Stalled) for name in event.missing]
    missing = f": no result from {', '.join(names)}" if names else ""
    return [Text(f" {run.status_text}{missing} ", style="bold white on red", no_wrap=True, overflow="ellipsis")]


# --- the curves -------------------------------------------------------------------------------------------------------


def _chart(rounds: Sequence[RoundRecord], width: int, height: int) -> list[RenderableType]:
    best = [one.best.fitness for one in rounds if one.best is not None]
    mean = [one.best.fitness_mean for one in rounds if one.best is not None]
    if not best:
        return [Text() for _ in range(height + 1)]
    # The first few means may be far below the others: a twentieth of the values may lie on the edge.
    ranked = sorted([*best, *mean])
    low, high = ranked[len(ranked) // 20], ranked[-1]
    curves = [Curve(best, BEST), Curve(mean, MEAN)]
    lines = draw_curves(curves, low, high, width - LABEL_WIDTH - 1, height)
    labels = [f"{high:.4g}", *[""] * (height - 2), f"{low:.4g}"]
    drawn = [
        Text.assemble((f"{label:>{LABEL_WIDTH}} ", "dim"), line) for label, line in zip(labels, lines, strict=True)
    ]
    first, last = f"round {rounds[0].round}", f"{rounds[-1].round}"
    foot = " " * (LABEL_WIDTH + 1) + first + " " * max(1, width - LABEL_WIDTH - 1 - len(first) - len(last)) + last
    return [*drawn, Text(foot, style="dim", no_wrap=True)]


def _latencies(rounds: Sequence[RoundRecord], width: int) -> RenderableType:
    took = [one.round_s * 1000 for one in rounds if one.round_s is not None]
    if not took:
        return Text()
    summary = f"  median {statistics.median(took):.1f} ms, last {took[-1]:.1f}, longest {max(took):.1f}"
    bars = draw_blocks(took, max(1, min(60, width - LABEL_WIDTH - 1 - len(summary))))
    return Text.assemble((f"{'latency':>{LABEL_WIDTH}} ", "dim"), (bars, "blue"), (summary, "dim"), no_wrap=True)


# --- the trainers -----------------------------------------------------------------------------------------------------

Cell = Callable[[ObservedRun, TrainerRecord], str]
# heading: (the text of a cell, the columns that the screen must have)
COLUMNS: dict[str, tuple[Cell, int]] = {
    "rows": (lambda _, one: str(one.num_examples), 0),
    "results": (lambda _, one: str(one.results), 0),
    "share": (lambda run, one: f"{one.results / max(1, run.run_state.results):.0%}", 0),
    "held out": (lambda _, one: _held_out(one), 0),
    "late": (lambda _, one: str(one.late or ""), 100),
    "rejected": (lambda _, one: str(one.rejected or ""), 0),
    "seen": (lambda run, one: _ago(max(0.0, run.now - one.seen_at)), 0),
    "work": (lambda _, one: f"{one.train_s * 1000:.1f} ms" if one.results else "", 100),
    "trip": (lambda _, one: f"{one.round_trip_s * 1000:.1f} ms" if one.round_trip_s else "", 0),
    "cpu": (lambda _, one: f"{one.cpu:.0%}" if one.cpu_s else "", 80),
    "memory": (lambda _, one: f"{one.memory / 1e6:.0f} MB" if one.memory else "", 80),
}


def _trainers(run: ObservedRun, trainers: list[TrainerRecord], width: int, lines: int) -> RenderableType:
    """Render a line for each; if there are too many, those that are not alive come first."""
    if not trainers:
        return Text("no trainer yet", style="dim")
    ranks = {presence: rank for rank, presence in enumerate(PRESENCES)}
    urgent = sorted(trainers, key=lambda one: (ranks[one.presence], one.name))
    shown = urgent if len(urgent) <= lines else urgent[: max(1, lines - 1)]
    table = PrintableTable(box=None, padding=(0, 2 if width >= 120 else 1, 0, 0), header_style="dim")
    table.add_column("trainer", no_wrap=True, overflow="ellipsis", max_width=width // 6)
    table.add_column("", no_wrap=True)
    columns = {name: cell for name, (cell, needed) in COLUMNS.items() if width >= needed}
    if not any(one.held_out for one in trainers):
        del columns["held out"]
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    labelled = width >= 130 and any(one.labels for one in shown)
    if labelled:
        table.add_column("labels", no_wrap=True, overflow="ellipsis", max_width=width // 6)
    for one in sorted(shown, key=lambda one: one.name):
        reason = "" if one.reason in ("", "leaving") else f": {one.reason}"
        state = Text(f"● {one.barred or one.presence}{reason}", style=PRESENCES[one.presence])
        labels = [Text(", ".join(one.labels))] if labelled else []
        table.add_row(Text(one.name), state, *(cell(run, one) for cell in columns.values()), *labels)
    if len(shown) == len(trainers):
        return table
    rest = urgent[len(shown) :]
    counts = ((sum(one.presence == presence for one in rest), presence) for presence in PRESENCES)
    which = ", ".join(f"{count} {presence}" for count, presence in counts if count)
    return Group(table, Text(f"and {len(rest)} more ({which})", style="dim"))


# --- text -------------------------------------------------------------------------------------------------------------


def _held_out(one: TrainerRecord) -> str:
    """Return the figure of the best model on the held-out rows of a trainer."""
    if one.held_out is None or not one.held_out.rows:
        return ""
    return f"RMSE {one.held_out.rmse:.4g}" if one.held_out.rmse is not None else f"{one.held_out.accuracy:.1%}"


def _status(run: ObservedRun) -> Text:
    return Text(f"● {run.status_text}", style=f"bold {COLORS.get(run.condition, 'red')}", no_wrap=True)


def _ago(seconds: float | None) -> str:
    return "" if seconds is None else f"{span(seconds)} ago"


def _clock(at: float) -> str:
    return time_text(at, "%H:%M:%S", local=True)


def _sides() -> Table:
    """Return a table of one line with a text at each side."""
    table = PrintableTable.grid(expand=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right", no_wrap=True)
    return table
