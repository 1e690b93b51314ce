"""What a person sees of a run while it goes on: a live panel on a terminal, plain lines when piped, and the log.

Knows events and the picture that they come to, nothing of how they come about.
"""

from __future__ import annotations

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

LINES_MAX = 26  # of the panel: what was said before stays in sight
STDOUT = 1

log = logging.getLogger(__name__)


def log_event(event: events.AnyEvent, run: str, metric: str) -> None:
    """A line in the log about `event`, with the run, its round and its trainer as fields."""
    if log.isEnabledFor(logging.INFO) and (line := event_line(event, metric)) is not None:
        about = {name: getattr(event, name) for name in ("round", "trainer") if hasattr(event, name)}
        log.info("%s", line, extra={"run": run, **about})


class PlainProgress:
    """A line an event, for pipes and logs."""

    def __init__(self, metric: str, write: Callable[[str], None]) -> None:
        self._metric, self._write = metric, write

    def __call__(self, event: events.AnyEvent) -> None:
        """Tell about `event`; the end is told by the report, with more figures."""
        if not isinstance(event, events.RunFinished) and (line := event_line(event, self._metric)) is not None:
            self._write(line)

    def close(self) -> None:
        """Nothing is left open."""


class LiveProgress:
    """A panel that is redrawn in place, of a picture that somebody else lets the events into."""

    def __init__(self, view: RunState, console: Console, wall: Callable[[], float] = time.time) -> None:
        self._view, self._console, self._wall = view, console, wall
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._panel)
        self._live.start()

    def __call__(self, event: events.AnyEvent) -> None:
        """It is in the picture already."""

    def close(self) -> None:
        """Leave the last picture standing."""
        self._live.stop()

    def _panel(self) -> RenderableType:
        height = min(self._console.height - 1, LINES_MAX)
        return render_run(ObservedRun(self._view, self._wall(), connected=True), self._console.width, height)


Progress = PlainProgress | LiveProgress


def open_progress(view: RunState, metric: str, *, quiet: bool) -> Progress:
    """The progress that fits stdout: a live panel on a terminal, else lines; none when `quiet`, or where the log is."""
    if quiet or is_journal(STDOUT):
        return PlainProgress(metric, lambda _line: None)
    if sys.stdout.isatty():
        return LiveProgress(view, Console())
    return PlainProgress(metric, lambda line: print(line, flush=True))
