"""The output of `fedmq watch`: a screen that is redrawn in place, one view, or lines of JSON."""

from __future__ import annotations

from typing import Any, Protocol

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from fedmq.observe.terminal_view import ObservedRun, render_list, render_run

PIPED_COLUMNS, PIPED_LINES = 100, 40  # without a terminal


class WatchOutput(Protocol):
    """Shows runs. `note` names a problem of their source, "" if there is none."""

    def show(self, runs: list[ObservedRun], note: str) -> None:
        """Show these runs as they are now."""
        ...

    def show_problem(self, note: str) -> None:
        """Show that there are no runs to show yet."""
        ...

    def close(self) -> None:
        """End the output."""
        ...


class ScreenOutput:
    """The whole terminal, redrawn in place; the last view stays when it closes."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last: tuple[list[ObservedRun], str] = ([], "")
        self._live = Live(console=console, screen=True, auto_refresh=False)
        self._live.start()

    def show(self, runs: list[ObservedRun], note: str) -> None:
        self._last = runs, note
        self._live.update(render(runs, note, self._console.width, self._console.height - 1), refresh=True)

    def show_problem(self, note: str) -> None:
        self.show([], note)

    def close(self) -> None:
        self._live.stop()
        self._console.print(render(*self._last, self._console.width, self._console.height - 2))


class SingleOutput:
    """One view, on a terminal or not; each problem is printed once to stderr."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._problem = ""

    def show(self, runs: list[ObservedRun], note: str) -> None:
        height = self._console.height if self._console.is_terminal else PIPED_LINES
        self._console.print(render(runs, note, self._console.width, height - 1))

    def show_problem(self, note: str) -> None:
        if note != self._problem:
            click.echo(f"fedmq: {note}", err=True)
        self._problem = note

    def close(self) -> None: ...


class JsonOutput:
    """A JSON object a line for each run that changed; the passing of time alone is no change."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int, str]] = {}
        self._problem = ""

    def show(self, runs: list[ObservedRun], note: str) -> None:
        self.show_problem(note)
        for run in runs:
            state = run.run_state
            now = (state.term, state.seq, run.condition)
            if self._before.get(state.run) != now:
                self._before[state.run] = now
                click.echo(msgspec.json.encode(summary_of(run)).decode())

    def show_problem(self, note: str) -> None:
        if note and note != self._problem:
            click.echo(f"fedmq: {note}", err=True)
        self._problem = note

    def close(self) -> None: ...


def output_for(*, once: bool, as_json: bool) -> WatchOutput:
    """Return the output for these options of the command."""
    if as_json:
        return JsonOutput()
    console = Console()
    if once:
        return SingleOutput(console if console.is_terminal else Console(width=PIPED_COLUMNS))
    return ScreenOutput(console)


def render(runs: list[ObservedRun], note: str, width: int, height: int) -> RenderableType:
    """Render one run in full, several as a list, with `note` above."""
    above = [Text(note, style="bold yellow")] if note else []
    if not runs:
        return Group(*above)
    inside = render_run(runs[0], width, height - len(above)) if len(runs) == 1 else render_list(runs, height)
    return Group(*above, inside)


def summary_of(run: ObservedRun) -> dict[str, Any]:
    """Return the current figures of a run for JSON: times in seconds, `at` since 1970; without its history."""
    state = run.run_state
    return {
        "at": run.now,
        "run": state.run,
        "state": run.status_text,
        "task": state.task,
        "algorithm": state.algorithm,
        "robust": state.robust,
        "seed": state.seed,
        "term": state.term,
        "round": state.newest.round if state.newest else 0,
        "rounds_max": state.rounds_max,
        "left_s": run.left_s,
        "idle_s": run.idle_s,
        "metric": state.metric,
        "target": state.target,
        "best": state.best,
        "present": state.present,
        "results": state.results,
        "late": state.late,
        "resent": state.resent,
        "rejections": state.rejections,
        "trainers": list(state.trainers.values()),
    }
