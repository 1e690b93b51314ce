"""Progress of a run: the terminal view on a terminal, plain lines in a pipe, and the log."""

import logging
import sys
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live

from fedmq.observe import events
from fedmq.observe.event_text import event_line
from fedmq.observe.run_state import ObservedRun, RunState
from fedmq.observe.terminal_view import render_run
from fedmq.runtime.journal import is_journal

LINES_MAX = 26  # of the terminal view, so that earlier output stays visible
STDOUT = 1

log = logging.getLogger(__name__)


def log_event(event: events.AnyEvent, run: str, metric: str) -> None:
    """Log `event`, with its run, round and trainer as fields."""
    if log.isEnabledFor(logging.INFO) and (line := event_line(event, metric)) is not None:
        about = {name: getattr(event, name) for name in ("round", "trainer") if hasattr(event, name)}
        log.info("%s", line, extra={"run": run, **about})


class PlainProgress:
    """One line an event, for pipes and logs."""

    def __init__(self, metric: str, write: Callable[[str], None]) -> None:
        self._metric, self._write = metric, write

    def __call__(self, event: events.AnyEvent) -> None:
        """Write the line of `event`. The report covers the end of the run."""
        if not isinstance(event, events.RunFinished) and (line := event_line(event, self._metric)) is not None:
            self._write(line)

    def close(self) -> None:
        """Do nothing."""


class LiveProgress:
    """A terminal view that is redrawn in place. The aggregator applies the events to its run state."""

    def __init__(self, view: RunState, console: Console, wall: Callable[[], float] = time.time) -> None:
        self._view, self._console, self._wall = view, console, wall
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._render)
        self._live.start()

    def __call__(self, event: events.AnyEvent) -> None:
        """Do nothing: the run state includes the event."""

    def close(self) -> None:
        """Stop, and leave the last view on the terminal."""
        self._live.stop()

    def _render(self) -> RenderableType:
        height = min(self._console.height - 1, LINES_MAX)
        return render_run(ObservedRun(self._view, self._wall(), connected=True), self._console.width, height)


Progress = PlainProgress | LiveProgress


def open_progress(view: RunState, metric: str, *, quiet: bool) -> Progress:
    """Return the progress for stdout: none if `quiet` or if stdout is the log, a view on a terminal, else lines."""
    if quiet or is_journal(STDOUT):
        return PlainProgress(metric, lambda _line: None)
    if sys.stdout.isatty():
        return LiveProgress(view, Console())
    return PlainProgress(metric, lambda line: print(line, flush=True))
