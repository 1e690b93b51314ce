"""How a rollout looks: a table that lives where people watch, a line for each step where nobody does.

Knows nothing of what the steps are.
"""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fedmq.deploy.facts import Facts
from fedmq.deploy.plan import short
from fedmq.deploy.rollout import News

FRAMES_A_SECOND = 8
WIDE = 10_000  # no line is folded where nobody looks


class Progress:
    """A row for each host, in the order in which they were first heard of; a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=False, highlight=False, soft_wrap=True)
        self._rows: dict[str, tuple[News, float]] = {}
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=FRAMES_A_SECOND)
        self._start = time.monotonic()

    def __call__(self, news: News) -> None:
        """A host has news."""
        now = time.monotonic()
        before, since = self._rows.get(news.host, (None, now))
        self._rows[news.host] = (news, now)
        if not self._console.is_terminal:
            if before is not None and not before.done:
                self._say(before, f"{now - since:5.1f} s")
            if news.done:
                self._say(news, "")

    def _say(self, news: News, took: str) -> None:
        self._console.print(f"{news.host:<16} {took:>7}  {_words(news)}", markup=False)

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False, show_header=False)
        now = time.monotonic()
        for host, (news, since) in self._rows.items():
            style = "red" if news.error else "green" if news.done else ""
            took = "" if news.done else f"{now - since:.0f} s"
            table.add_row(Text(host), Text(_words(news), style=style, overflow="fold"), Text(took))
        return table

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()


def _words(news: News) -> str:
    return f"FAILED: {news.error}" if news.error else f"done: {news.what}" if news.done else news.what


def standing(found: dict[str, Facts], failed: dict[str, str], *, as_json: bool) -> str:
    """How the hosts stand, for people or as one JSON object."""
    if as_json:
        hosts: dict[str, object] = {
            host: {
                "version": facts.version,
                "units": {short(name): unit._asdict() for name, unit in sorted(facts.units.items())},
            }
            for host, facts in found.items()
        }
        return json.dumps({"hosts": hosts, "failed": failed})
    table = Table("host", "version", "service", "state", "restarts", "how it stands", box=None, pad_edge=False)
    for host, facts in found.items():
        for name, unit in sorted(facts.units.items()):
            stands = (unit.active, str(unit.restarts), Text(unit.status))
            table.add_row(Text(host), facts.version or "none", Text(short(name)), *stands)
        if not facts.units:
            table.add_row(Text(host), facts.version or "none", "", "nothing runs", "", "")
    for host, line in failed.items():
        table.add_row(Text(host), "", "", Text("FAILED", style="red"), "", Text(line))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(map(str.rstrip, capture.get().splitlines()))
