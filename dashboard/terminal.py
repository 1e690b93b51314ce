"""The command `fedmq watch`: runs on a terminal, redrawn in place, or as lines of JSON.

Knows pictures of runs, nothing of how they come here.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import click

from fedmq.cli.options import edge_options, log_options, one_thread_for_arrays, option
from fedmq.errors import BadConfiguration, Unreachable

if TYPE_CHECKING:
    from fedmq.dashboard.live_runs import Watched
    from fedmq.dashboard.terminal_output import Show
    from fedmq.observe.terminal_view import ObservedRun
    from fedmq.runtime.clock import Clock

DRAW_S = 0.1  # between two pictures at the least,
TICK_S = 0.5  # and at the most: times pass
LOOK_S = 1.2  # once the broker is there: what it has kept may be a second old, and then the next picture comes


@click.command()
@click.argument("run", required=False)
@option("--once", is_flag=True, help="Show one picture and end; so it is where the output is no terminal.")
@option("--json", "as_json", is_flag=True, help="One JSON object a line and run, whenever something has changed.")
@edge_options
@log_options
def watch(
    run: str | None, once: bool, as_json: bool, broker: str | None, keys: Path | None, connect_timeout: float | None
) -> None:
    """Watch RUN, or what runs at the broker now: how it stands, how it got there, who takes part.

    RUN is a name at the broker, or the folder of a run, live or over. Without it the only run is shown, or a list where
    there are several. Watching slows no round, and may begin and end at any time; it ends with the run that was named,
    or with Ctrl-C. With keys it takes observer.key, or else the aggregator's.

    \b
    Examples:
      fedmq watch
      fedmq watch xor-20260101-120000-ab12
      fedmq watch runs/xor-20260101-120000-ab12 --once
      fedmq watch --json --once
    """
    one_thread_for_arrays()
    from fedmq.dashboard.live_runs import open_watching
    from fedmq.dashboard.run_folder_follower import Looks, RunFolderFollower
    from fedmq.dashboard.terminal_output import show_for
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import Waitable, serve

    clock = SystemClock()
    once = once or not (as_json or sys.stdout.isatty())
    source: Source
    link: Waitable
    close: Callable[[], None]
    look_s = LOOK_S
    if run is not None and ("/" in run or Path(run).is_dir()):  # no name has a slash
        source = following = RunFolderFollower(Path(run), clock=clock)
        link, close, where, run = Looks(), following.close, run, next(iter(following.runs))
        look_s = 0.0
    else:
        source, sockets, where = open_watching(broker, keys, clock=clock)
        link, close = sockets, sockets.close
    show = show_for(once=once, as_json=as_json)
    try:
        watcher = Watcher(
            source, show, clock=clock, where=where, run=run, once=once, look_s=look_s, timeout_s=connect_timeout
        )
        serve(watcher, link, clock)
    finally:
        show.close()
        close()


class Source(Protocol):
    """Where pictures come from: a broker, or a folder."""

    @property
    def runs(self) -> Mapping[str, Watched]:
        """By name."""
        ...

    @property
    def there(self) -> bool:
        """Whether anything can come from there."""
        ...

    def step(self) -> None:
        """Take what came."""
        ...


class Watcher:
    """Shows what comes from `source` until the run that was named is over; see `loop.Service`.

    With `once` it shows it one time, as soon as all that is there now can have come.
    """

    def __init__(
        self,
        source: Source,
        show: Show,
        *,
        clock: Clock,
        where: str,
        run: str | None = None,
        once: bool = False,
        look_s: float = LOOK_S,
        timeout_s: float | None = None,
    ) -> None:
        self.done = False
        self.wake_at: float | None = None
        self._source, self._show, self._clock, self._where = source, show, clock, where
        self._run, self._once, self._look_s, self._timeout_s = run, once, look_s, timeout_s
        self._began = clock.now()
        self._there_at: float | None = None  # when anything could come for the first time
        self._next_at = self._began  # when to draw
        self._drawn = -1  # what was

    @property
    def status(self) -> str:
        return f"watches {self._where}"

    def stop(self) -> None:
        self.done = True

    def step(self) -> None:
        """See `loop.Service`.

        Raises:
            Unreachable: nothing could come from there for as long as was allowed.
            BadConfiguration: one picture of one run is wanted, and there is no such run.
        """
        self._source.step()
        now = self._clock.now()
        if self._there_at is None and self._source.there:
            self._there_at = now
        if self._there_at is None and self._timeout_s is not None and now - self._began >= self._timeout_s:
            raise Unreachable(f"no broker answered at {self._where} within {self._timeout_s:g} s; is it started?")
        seen = self._seen(now)
        if self._once:
            self._finish(seen, now)
        elif now >= self._next_at or (self._drawn != self._told() and now >= self._next_at - TICK_S + DRAW_S):
            self._draw(seen, now)
        if not self.done and self._run is not None and seen and seen[0].state.finished is not None:
            self._draw(seen, now)
            self.done = True
        self.wake_at = now + DRAW_S if self._once or self._drawn != self._told() else self._next_at

    def _finish(self, seen: list[ObservedRun], now: float) -> None:
        """Show what is there, if it is all."""
        over = self._run is not None and bool(seen) and seen[0].state.finished is not None
        looked = self._there_at is not None and now - self._there_at >= self._look_s
        if not over and not looked:
            if self._there_at is None and now - self._began >= LOOK_S:
                self._show.lacks(self._note())
            return
        if self._run is not None and not seen:
            others = ", ".join(self._source.runs) or "none"
            raise BadConfiguration(
                f"expected a run {self._run} at {self._where}, there are: {others}; "
                f"where its folder is: fedmq watch runs/{self._run}"
            )
        self._draw(seen, now)
        self.done = True

    def _seen(self, now: float) -> list[ObservedRun]:
        from fedmq.observe.terminal_view import ObservedRun

        wall, runs = self._clock.wall(), self._source.runs
        chosen = list(runs) if self._run is None else [self._run] if self._run in runs else []
        return [ObservedRun(runs[name].view, wall + runs[name].ahead_s, runs[name].here(now)) for name in chosen]

    def _told(self) -> int:
        """A number that changes when anything was told."""
        return sum(one.view.seq + (one.view.term << 32) for one in self._source.runs.values())

    def _draw(self, seen: list[ObservedRun], now: float) -> None:
        self._next_at, self._drawn = now + TICK_S, self._told()
        self._show.show(seen, self._note())

    def _note(self) -> str:
        """What is wrong with the source; "" when all is well."""
        if self._source.there:
            if self._run is None and not self._source.runs:
                return f"no run at {self._where} yet; start one with: fedmq aggregator --task xor"
            return f"no run {self._run} at {self._where} yet" if not self._known() else ""
        return f"the broker at {self._where} does not answer; trying again"

    def _known(self) -> bool:
        return self._run is None or self._run in self._source.runs
