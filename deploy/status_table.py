"""Display of a rollout: a live table on a terminal, one line for each step elsewhere; and the table of `status`."""

import sys
import time
from typing import Self

from rich.live import Live
from rich.text import Text

from fedmq.cli.echo import echo_json
from fedmq.deploy.facts import Facts
from fedmq.deploy.plan import short_name
from fedmq.deploy.rollout import HostProgress
from fedmq.observe.console import PrintableConsole, PrintableTable

FRAMES_A_SECOND = 8
WIDE = 10_000  # without a terminal no line is wrapped


class ProgressTable:
    """A row for each host, in order of the first report; a context manager."""

    def __init__(self, console: PrintableConsole | None = None) -> None:
        self._console = console or PrintableConsole(soft_wrap=True)
        self._rows: dict[str, tuple[HostProgress, float]] = {}
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=FRAMES_A_SECOND)
        self._start = time.monotonic()

    def __call__(self, progress: HostProgress) -> None:
        now = time.monotonic()
        before, since = self._rows.get(progress.host, (None, now))
        self._rows[progress.host] = (progress, now)
        if not self._console.is_terminal:
            if before is not None and not before.done:
                self._print(before, f"{now - since:5.1f} s")
            if progress.done:
                self._print(progress, "")

    def _print(self, progress: HostProgress, took: str) -> None:
        self._console.print(f"{progress.host:<16} {took:>7}  {_text_of(progress)}")

    def _table(self) -> PrintableTable:
        table = PrintableTable(box=None, pad_edge=False, show_header=False)
        now = time.monotonic()
        for host, (progress, since) in self._rows.items():
            style = "red" if progress.error else "green" if progress.done else ""
            took = "" if progress.done else f"{now - since:.0f} s"
            table.add_row(Text(host), Text(_text_of(progress), style=style, overflow="fold"), Text(took))
        return table

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._console.is_terminal:
            self._live.stop()


def _text_of(progress: HostProgress) -> str:
    if progress.error:
        return f"FAILED: {progress.error}"
    return f"done: {progress.step}" if progress.done else progress.step


def print_status(found: dict[str, Facts], failed: dict[str, str], *, as_json: bool) -> None:
    """Print the state of all hosts as a table or as one JSON object."""
    if as_json:
        hosts: dict[str, object] = {
            host: {
                "version": facts.version,
                "units": {short_name(name): unit._asdict() for name, unit in sorted(facts.units.items())},
            }
            for host, facts in found.items()
        }
        echo_json({"hosts": hosts, "failed": failed})
        return
    table = PrintableTable("host", "version", "service", "state", "restarts", "status", box=None, pad_edge=False)
    for host, facts in found.items():
        for name, unit in sorted(facts.units.items()):
            cells = (unit.active, str(unit.restarts), Text(unit.status))
            table.add_row(Text(host), facts.version or "none", Text(short_name(name)), *cells)
        if not facts.units:
            table.add_row(Text(host), facts.version or "none", "", "no service", "", "")
    for host, error in failed.items():
        table.add_row(Text(host), "", "", Text("FAILED", style="red"), "", Text(error))
    PrintableConsole(width=None if sys.stdout.isatty() else WIDE).print(table)
