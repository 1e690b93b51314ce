"""What a person sees of a run while it goes on: a live panel on a terminal, plain lines when piped, and the log.

Knows events, nothing of how they come about.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedmq import events
from fedmq.journal import is_journal
from fedmq.tasks import Task
from fedmq.telling import describe

ROUNDS_SHOWN = 12
STDOUT = 1
SPARKS = "▁▂▃▄▅▆▇█"

log = logging.getLogger(__name__)


def log_event(event: events.AnyEvent, run: str, task: Task) -> None:
    """A line in the log about `event`, with the run, its round and its trainer as fields."""
    if not log.isEnabledFor(logging.INFO):
        return
    line = describe(event, task.metric)
    if isinstance(event, events.RunFinished):
        line = f"the run is over after {event.rounds} rounds: {'solved' if event.solved else 'not solved'}"
    if line is not None:
        about = {name: getattr(event, name) for name in ("round", "trainer") if hasattr(event, name)}
        log.info("%s", line, extra={"run": run, **about})


class PlainProgress:
    """A line an event, for pipes and logs."""

    def __init__(self, task: Task, write: Callable[[str], None]) -> None:
        self._task, self._write = task, write

    def __call__(self, event: events.AnyEvent) -> None:
        """Tell about `event`."""
        if (line := describe(event, self._task.metric)) is not None:
            self._write(line)

    def close(self) -> None:
        """Nothing is left open."""


class LiveProgress:
    """A panel that is redrawn in place: the last rounds, the curve, who is here, what was said last."""

    def __init__(self, task: Task, console: Console) -> None:
        self._task = task
        self._started: events.RunStarted | None = None
        self._rounds: deque[events.RoundClosed] = deque(maxlen=ROUNDS_SHOWN)
        self._curve: deque[float] = deque(maxlen=60)
        self._trainers: dict[str, bool] = {}
        self._said = ""
        self._live = Live(console=console, refresh_per_second=12, get_renderable=self._panel)
        self._live.start()

    def __call__(self, event: events.AnyEvent) -> None:
        """Take `event` into the picture."""
        if isinstance(event, events.RunStarted):
            self._started = event
        elif isinstance(event, events.RoundClosed):
            self._rounds.append(event)
            if event.best is not None:
                self._curve.append(event.best.fitness)
        elif isinstance(event, events.TrainerJoined):
            self._trainers[event.trainer] = True
        elif isinstance(event, events.TrainerLeft):
            self._trainers[event.trainer] = False
        if not isinstance(event, events.RoundClosed) and (line := describe(event, self._task.metric)) is not None:
            self._said = line

    def close(self) -> None:
        """Leave the last picture standing."""
        self._live.stop()

    def _panel(self) -> Group:
        started = self._started
        title = "" if started is None else f"{started.run}   {started.strategy}, seed {started.seed}"
        table = Table(box=None, padding=(0, 2, 0, 0))
        for column in ("round", "fitness best", "mean", "right" if self._task.metric == "accuracy" else "loss"):
            table.add_column(column, justify="right")
        for column in ("results", "ms"):
            table.add_column(column, justify="right")
        for one in self._rounds:
            table.add_row(str(one.round), *self._cells(one), str(one.results), f"{one.round_s * 1000:.1f}")
        people = Text("trainers  ")
        for name, here in sorted(self._trainers.items()):
            people.append(f"● {name}  ", style="green" if here else "red")
        curve = Text(_spark(self._curve), style="cyan")
        return Group(Text(title, style="bold"), table, curve, people, Text(self._said))

    def _cells(self, closed: events.RoundClosed) -> tuple[str, str, str]:
        best = closed.best
        if best is None:
            return ("", "", "")
        value = f"{best.value:.0%}" if self._task.metric == "accuracy" else f"{best.value:.5f}"
        return (f"{best.fitness:.4f}", f"{best.fitness_mean:.4f}", value)


Progress = PlainProgress | LiveProgress


def open_progress(task: Task, *, quiet: bool) -> Progress:
    """The progress that fits stdout: a live panel on a terminal, else lines; none when `quiet`, or where the log is."""
    if quiet or is_journal(STDOUT):
        return PlainProgress(task, lambda _line: None)
    if sys.stdout.isatty():
        return LiveProgress(task, Console())
    return PlainProgress(task, lambda line: print(line, flush=True))


def _spark(values: deque[float]) -> str:
    if not values:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(SPARKS[int((value - low) / span * (len(SPARKS) - 1))] for value in values)
