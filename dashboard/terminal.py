"""The command `fedmq watch`: runs on a terminal, redrawn in place, or as lines of JSON."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import edge_options, log_options, one_thread_for_arrays, option
from fedmq.errors import BadConfiguration, Unreachable

if TYPE_CHECKING:
    from fedmq.dashboard.live_runs import LiveRuns
    from fedmq.dashboard.run_folders import RunFolderFollower
    from fedmq.dashboard.terminal_output import WatchOutput
    from fedmq.observe.run_state import ObservedRun
    from fedmq.runtime.clock import Clock

DRAW_S = 0.1  # between two views at least
TICK_S = 0.5  # and at most, to update durations
LOOK_S = 1.2  # after the broker connects: its snapshot may be a second old, and then the next one arrives


@click.command()
@click.argument("run", required=False)
@option("--once", is_flag=True, help="Show one view and end; the default unless the output is a terminal.")
@option("--json", "as_json", is_flag=True, help="Print one JSON object a line for each run that changed.")
@edge_options
@log_options
def watch(
    run: str | None, once: bool, as_json: bool, broker: str | None, keys: Path | None, connect_timeout: float | None
) -> None:
    """Watch RUN, or the runs at the broker: status, progress and trainers.

    RUN is a name at the broker, or the folder of a live or finished run. Without RUN, the command shows the only run,
    or a list of several. Watching slows no round, and can start and end at any time. It ends with RUN, or with
    Ctrl-C. With --keys it uses observer.key, or else the aggregator's key.

    \b
    Examples:
      fedmq watch
      fedmq watch xor-20260101-120000-ab12
      fedmq watch runs/xor-20260101-120000-ab12 --once
      fedmq watch --json --once
    """
    one_thread_for_arrays()
    from fedmq.dashboard.live_runs import open_live_runs
    from fedmq.dashboard.run_folders import PollWait, RunFolderFollower
    from fedmq.dashboard.terminal_output import output_for
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import Waitable, serve

    clock = SystemClock()
    once = once or not (as_json or sys.stdout.isatty())
    source: LiveRuns | RunFolderFollower
    link: Waitable
    close: Callable[[], None]
    look_s = LOOK_S
    if run is not None and ("/" in run or Path(run).is_dir()):  # a name has no slash
        source = follower = RunFolderFollower(Path(run), clock=clock)
        link, close, where, run = PollWait(), follower.close, run, next(iter(follower.runs))
        look_s = 0.0
    else:
        source, sockets, where = open_live_runs(broker, keys, clock=clock)
        link, close = sockets, sockets.close
    output = output_for(once=once, as_json=as_json)
    try:
        watcher = Watcher(
            source, output, clock=clock, where=where, run=run, once=once, look_s=look_s, timeout_s=connect_timeout
        )
        serve(watcher, link, clock)
    finally:
        output.close()
        close()


class Watcher:
    """Shows the runs of `source` until the named run is over; see `loop.Service`.

    With `once`, it shows them once, after the time in which the states of all current runs arrive.
    """

    def __init__(
        self,
        source: LiveRuns | RunFolderFollower,
        output: WatchOutput,
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
        self._source, self._output, self._clock, self._where = source, output, clock, where
        self._run, self._once, self._look_s, self._timeout_s = run, once, look_s, timeout_s
        self._began = clock.now()
        self._connected_at: float | None = None  # for the first time
        self._next_at = self._began  # time of the next view
        self._shown = -1  # `_version` of the last view

    @property
    def status(self) -> str:
        return f"watches {self._where}"

    def stop(self) -> None:
        self.done = True

    def step(self) -> None:
        """See `loop.Service`.

        Raises:
            Unreachable: the source did not connect in time.
            BadConfiguration: there is no such run, with `once`.
        """
        self._source.step()
        now = self._clock.now()
        if self._connected_at is None and self._source.connected:
            self._connected_at = now
        if self._connected_at is None and self._timeout_s is not None and now - self._began >= self._timeout_s:
            raise Unreachable(f"no broker answered at {self._where} within {self._timeout_s:g} s; is it started?")
        runs = self._observed(now)
        over = self._run is not None and bool(runs) and runs[0].run_state.finished is not None
        if self._once:
            self._show_once(runs, over, now)
        elif over:
            self._show(runs, now)
            self.done = True
        elif now >= self._next_at or (self._shown != self._version() and now >= self._next_at - TICK_S + DRAW_S):
            self._show(runs, now)
        self.wake_at = now + DRAW_S if self._once or self._shown != self._version() else self._next_at

    def _show_once(self, runs: list[ObservedRun], over: bool, now: float) -> None:
        """Show the runs once they are complete, and end."""
        looked = self._connected_at is not None and now - self._connected_at >= self._look_s
        if not over and not looked:
            if self._connected_at is None and now - self._began >= LOOK_S:
                self._output.show_problem(self._problem())
            return
        if self._run is not None and not runs:
            others = ", ".join(self._source.runs) or "none"
            raise BadConfiguration(
                f"expected a run {self._run} at {self._where}, got: {others}; "
                f"to watch a run in its folder: fedmq watch runs/{self._run}"
            )
        self._show(runs, now)
        self.done = True

    def _observed(self, now: float) -> list[ObservedRun]:
        from fedmq.observe.run_state import ObservedRun

        wall, runs = self._clock.wall(), self._source.runs
        chosen = list(runs) if self._run is None else [self._run] if self._run in runs else []
        return [
            ObservedRun(runs[name].run_state, wall + runs[name].ahead_s, runs[name].connected(now)) for name in chosen
        ]

    def _version(self) -> int:
        """Return a number that changes with each event."""
        return sum(one.run_state.seq + (one.run_state.term << 32) for one in self._source.runs.values())

    def _show(self, runs: list[ObservedRun], now: float) -> None:
        self._next_at, self._shown = now + TICK_S, self._version()
        self._output.show(runs, self._problem())

    def _problem(self) -> str:
        """Return the problem of the source, "" if there is none."""
        if not self._source.connected:
            return f"the broker at {self._where} does not answer; trying again"
        if self._run is None and not self._source.runs:
            return f"no run at {self._where} yet; start one with: fedmq aggregator --task xor"
        return "" if self._run is None or self._run in self._source.runs else f"no run {self._run} at {self._where} yet"
