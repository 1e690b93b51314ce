"""What `fedmq watch` writes: a screen that is redrawn in place, one picture, or lines of JSON.

Knows what a picture says, nothing of where it comes from or when it is drawn.
"""

from __future__ import annotations

from typing import Any, Protocol

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fedmq.observe.terminal_view import ObservedRun, render_list, render_run

PIPED_COLUMNS, PIPED_LINES = 100, 40  # where there is no terminal


class Show(Protocol):
    """Where pictures are shown. `note` says what is wrong with where they come from; "" when nothing is."""

    def show(self, several: list[ObservedRun], note: str) -> None:
        """Show these runs, as they are now."""
        ...

    def lacks(self, note: str) -> None:
        """There is nothing to show yet."""
        ...

    def close(self) -> None:
        """Nothing more is shown."""
        ...


class Screen:
    """The whole terminal, redrawn in place; the last picture stays when it is closed."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[list[ObservedRun], str] = ([], "")
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._live.start()

    def show(self, several: list[ObservedRun], note: str) -> None:
        self._last = several, note
        self._live.update(draw(several, note, self._console.width, self._console.height - 1), refresh=True)

    def lacks(self, note: str) -> None:
        self.show([], note)

    def close(self) -> None:
        self._live.stop()
        self._console.print(draw(*self._last, self._console.width, self._console.height - 2))


class Once:
    """One picture, on a terminal or not; what is lacking goes to stderr, once."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lacked = ""

    def show(self, several: list[ObservedRun], note: str) -> None:
        height = self._console.height if self._console.is_terminal else PIPED_LINES
        self._console.print(draw(several, note, self._console.width, height - 1))

    def lacks(self, note: str) -> None:
        if note != self._lacked:
            click.echo(f"fedmq: {note}", err=True)
        self._lacked = note

    def close(self) -> None: ...


class Lines:
    """A JSON object a line for each run in which something else than the time has changed."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int, str]] = {}
        self._lacked = ""

    def show(self, several: list[ObservedRun], note: str) -> None:
        self.lacks(note)
        for seen in several:
            view = seen.state
            now = (view.term, view.seq, seen.condition)
            if self._before.get(view.run) != now:
                self._before[view.run] = now
                click.echo(msgspec.json.encode(summary_of(seen)).decode())

    def lacks(self, note: str) -> None:
        if note and note != self._lacked:
            click.echo(f"fedmq: {note}", err=True)
        self._lacked = note

    def close(self) -> None: ...


def show_for(*, once: bool, as_json: bool) -> Show:
    """What these options of a command mean."""
    if as_json:
        return Lines()
    console = Console()
    if once:
        return Once(console if console.is_terminal else Console(width=PIPED_COLUMNS))
    return Screen(console)


def draw(several: list[ObservedRun], note: str, width: int, height: int) -> RenderableType:
    """One run as a whole, several as a list, with `note` above."""
    above = [Text(note, style="bold yellow")] if note else []
    if not several:
        return Group(*above)
    inside = render_run(several[0], width, height - len(above)) if len(several) == 1 else render_list(several, height)
    return Group(*above, inside)


def summary_of(seen: ObservedRun) -> dict[str, Any]:
    """How a run stands, in the terms of JSON: times in seconds, `at` since 1970; what came before is not in it."""
    view = seen.state
    return {
        "at": seen.now,
        "run": view.run,
        "state": seen.status_text,
        "task": view.task,
        "strategy": view.strategy,
        "robust": view.robust,
        "seed": view.seed,
        "term": view.term,
        "round": view.newest.round if view.newest else 0,
        "rounds_max": view.rounds_max,
        "left_s": seen.left_s,
        "idle_s": seen.idle_s,
        "metric": view.metric,
        "target": view.target,
        "best": view.best,
        "present": view.present,
        "results": view.results,
        "late": view.late,
        "resent": view.resent,
        "rejections": view.rejections,
        "trainers": list(view.trainers.values()),
    }
