"""Progress of a run: the terminal view on a terminal, plain lines in a pipe, and the log."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import RenderableType
from rich.live import Live

from fedmq.cli.echo import echo_if_read
from fedmq.observe import events
from fedmq.observe.console import PrintableConsole
from fedmq.observe.event_text import event_line
from fedmq.observe.run_state import ObservedRun, RunState
from fedmq.observe.terminal_view import render_run
from fedmq.runtime.journal import is_journal

LINES_MAX = 26  # of the terminal view, so that earlier output stays visible
STDOUT = 1
ROUNDS_FIRST, EVERY_S = 20, 1.0  # rounds that have a line each in a pipe, and the seconds between later lines

log = logging.getLogger(__name__)


def log_event(event: events.AnyEvent, run: str, metric: str) -> None:
    """Log `event`, with its run, round and trainer as fields."""
    if log.isEnabledFor(logging.INFO) and (line := event_line(event, metric)) is not None:
        about = {name: getattr(event, name) for name in ("round", "trainer") if hasattr(event, name)}
        log.info("%s", line, extra={"run": run, **about})


def plain_progress(metric: str, write: Callable[[str], None]) -> Callable[[events.AnyEvent], None]:
    """Return a function that writes one line an event, for pipes and files. The report covers the end of the run.

    Fast rounds have lines at first, and after that one for each `EVERY_S` of rounds: `history.csv` has all.
    """
    seconds = 0.0  # of rounds since the last line of one

    def progress(event: events.AnyEvent) -> None:
        nonlocal seconds
        if isinstance(event, events.RunFinished) or (line := event_line(event, metric)) is None:
            return
        if isinstance(event, events.RoundClosed):
            seconds += event.round_s
            usual = event.why == "complete" and not event.restarted and not event.saturated
            if usual and event.round > ROUNDS_FIRST and seconds < EVERY_S:
                return
            seconds = 0.0
        write(line)

    return progress


def live_view(view: RunState, console: PrintableConsole, wall: Callable[[], float] = time.time) -> Live:
    """Return a view of the run that is redrawn in place; the last one stays on the terminal."""

    def render() -> RenderableType:
        height = min(console.height - 1, LINES_MAX)
        return render_run(ObservedRun(view, wall(), connected=True), console.width, height)

    return Live(console=console, refresh_per_second=8, get_renderable=render)


@contextmanager
def open_progress(view: RunState, metric: str, *, quiet: bool) -> Iterator[Callable[[events.AnyEvent], None]]:
    """Show events on stdout: none if `quiet` or if stdout is the log, the `view` on a terminal, else lines."""
    if quiet or is_journal(STDOUT):
        yield lambda _event: None
    elif sys.stdout.isatty():
        with live_view(view, PrintableConsole()):
            yield lambda _event: None  # the aggregator applies it to the view
    else:
        yield plain_progress(metric, echo_if_read)
