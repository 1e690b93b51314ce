"""The output of `fedmq watch`: a screen that is redrawn in place, one view, or lines of JSON."""

from abc import ABC, abstractmethod
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from fedmq.cli.echo import echo, echo_json
from fedmq.observe.console import PrintableConsole
from fedmq.observe.run_state import ObservedRun
from fedmq.observe.terminal_view import render_list, render_run

PIPED_COLUMNS, PIPED_LINES = 100, 40  # without a terminal
SETTINGS = ("task", "algorithm", "robust", "seed", "term", "rounds_max", "metric", "target")
FIGURES = ("best", "present", "results", "late", "resent", "rejections")


class WatchOutput(ABC):
    """Shows runs. `note` names a problem of their source, "" if there is none."""

    _problem = ""

    @abstractmethod
    def show(self, runs: list[ObservedRun], note: str) -> None:
        """Show these runs as they are now."""

    def show_problem(self, note: str) -> None:
        """Report that there are no runs to show yet: print each problem once to stderr."""
        if note and note != self._problem:
            echo(f"fedmq: {note}", err=True)
        self._problem = note

    def close(self) -> None:  # noqa: B027 - most outputs have nothing to end
        """End the output."""


class ScreenOutput(WatchOutput):
    """The whole terminal, redrawn in place; the last view stays when it closes."""

    def __init__(self, console: PrintableConsole) -> None:
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


class SingleOutput(WatchOutput):
    """One view, on a terminal or not."""

    def __init__(self, console: PrintableConsole) -> None:
        self._console = console

    def show(self, runs: list[ObservedRun], note: str) -> None:
        height = self._console.height if self._console.is_terminal else PIPED_LINES
        self._console.print(render(runs, note, self._console.width, height - 1))


class JsonOutput(WatchOutput):
    """A JSON object a line for each run that changed; the passing of time alone is no change."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int, str]] = {}

    def show(self, runs: list[ObservedRun], note: str) -> None:
        self.show_problem(note)
        for run in runs:
            state = run.run_state
            now = (state.term, state.seq, run.condition)
            if self._before.get(state.run) != now:
                self._before[state.run] = now
                echo_json(summary_of(run))


def output_for(*, once: bool, as_json: bool) -> WatchOutput:
    """Return the output for these options of the command."""
    if as_json:
        return JsonOutput()
    console = PrintableConsole()
    if once:
        return SingleOutput(console if console.is_terminal else PrintableConsole(width=PIPED_COLUMNS))
    return ScreenOutput(console)


def render(runs: list[ObservedRun], note: str, width: int, height: int) -> RenderableType:
    """Render one run in full, several as a list, with `note` above."""
    above = [Text(note, style="bold yellow")] if note else []
    if not runs:
        return Group(*above)
    inside = render_run(runs[0], width, height - len(above)) if len(runs) == 1 else render_list(runs, width, height)
    return Group(*above, inside)


def summary_of(run: ObservedRun) -> dict[str, Any]:
    """Return the current figures of a run for JSON: times in seconds, `at` since 1970; without its history."""
    state = run.run_state
    return {
        "at": run.now,
        "run": state.run,
        "state": run.status_text,
        **{name: getattr(state, name) for name in SETTINGS},
        "round": state.newest.round if state.newest else 0,
        "left_s": run.left_s,
        "idle_s": run.idle_s,
        **{name: getattr(state, name) for name in FIGURES},
        "trainers": list(state.trainers.values()),
    }
