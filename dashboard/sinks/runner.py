"""Runs sinks: passes each closed round of each live run once, in order, then the end of the run.

The first snapshot of a run holds the rounds closed before the sink started.
"""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from fedmq.dashboard.live_runs import LiveRuns, WatchedRun
from fedmq.errors import BadConfiguration
from fedmq.observe import events
from fedmq.observe.events import RunFinished
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.runs.report import EarlierReport, Report, read_report
from fedmq.runtime.clock import Clock

BATCH_MAX = 100  # rounds written before the next network step
REPORT_S = 5.0  # wait for the report after the end of a run
POLL_S = 0.1

AnyReport = Report | EarlierReport


class Sink(Protocol):
    """The destination of one run. `last` is the newest round written there, also before a restart."""

    last: int

    def write(self, rounds: list[RoundRecord]) -> None:
        """Write these closed rounds."""

    def finish(self, finished: RunFinished, report: AnyReport | None) -> None:
        """Write the end of the run; `report` is None if its folder is not on this machine."""

    def close(self) -> None:
        """Close the sink; the run may continue later."""


class SinkRunner:
    """Runs a sink for each run at a broker, or for one until it is over; see `loop.Service`.

    `runs` is the folder of runs with their reports.
    """

    def __init__(
        self,
        live_runs: LiveRuns,
        open_sink: Callable[[RunState], Sink],
        clock: Clock,
        runs: Path,
        only: str | None = None,
    ) -> None:
        self._live_runs, self._open, self._clock, self._runs, self._only = live_runs, open_sink, clock, runs, only
        self._sinks: dict[str, Sink] = {}
        self._finished: dict[str, tuple[int, int]] = {}  # term and number of rounds at the end of a run
        self._report_until: dict[str, float] = {}  # deadline for the report of a finished run
        self._more = self._only_is_over = False

    @property
    def done(self) -> bool:
        return self._live_runs.done or self._only_is_over

    @property
    def wake_at(self) -> float | None:
        if self._more:
            return self._clock.now()
        return self._clock.now() + POLL_S if self._report_until else None

    @property
    def status(self) -> str:
        return self._live_runs.status

    def stop(self) -> None:
        self._live_runs.stop()

    def step(self) -> None:
        """Raise what the live runs and the sinks raise."""
        self._live_runs.step()
        self._forget(self._live_runs.runs)
        self._more = False
        for run, watched in self._live_runs.runs.items():
            if self._only in (None, run):
                self._write(run, watched)

    def close(self) -> None:
        for sink in self._sinks.values():
            sink.close()

    def _forget(self, known: Collection[str]) -> None:
        """Drop the runs that `LiveRuns` dropped."""
        for run in [run for run in self._sinks if run not in known]:
            self._sinks.pop(run).close()
            self._report_until.pop(run, None)
        for run in [run for run in self._finished if run not in known]:
            del self._finished[run]

    def _write(self, run: str, watched: WatchedRun) -> None:
        run_state = watched.run_state
        if self._finished.get(run) == (run_state.term, len(run_state.rounds)):
            return
        if run not in self._sinks:
            self._sinks[run] = self._open(run_state)
        sink = self._sinks[run]
        new = _closed_after(run_state.rounds, sink.last)
        if new:
            sink.write(new[:BATCH_MAX])
            sink.last = new[min(len(new), BATCH_MAX) - 1].round
        if len(new) > BATCH_MAX:
            self._more = True
        elif run_state.finished is not None:
            self._finish(run, run_state, run_state.finished)

    def _finish(self, run: str, run_state: RunState, finished: RunFinished) -> None:
        """Finish the sink when the report is on disk, or its deadline has passed."""
        now = self._clock.now()
        report = self._report(run)
        if report is None and now < self._report_until.setdefault(run, now + REPORT_S):
            return
        self._report_until.pop(run, None)
        self._finished[run] = (run_state.term, len(run_state.rounds))
        sink = self._sinks.pop(run)
        sink.finish(finished, report)
        sink.close()
        self._only_is_over = run == self._only

    def _report(self, run: str) -> AnyReport | None:
        try:
            return read_report(self._runs / run)
        except BadConfiguration:  # not a report
            return None


def _closed_after(rounds: list[RoundRecord], last: int) -> list[RoundRecord]:
    """Return the closed rounds after round `last`, the oldest first."""
    new = []
    for one in reversed(rounds):
        if one.round <= last:
            break
        if one.closed_at is not None:
            new.append(one)
    return new[::-1]


def figures_of(one: RoundRecord) -> dict[str, float]:
    """Return the figures of a closed round, by name."""
    figures = {"round_s": one.round_s or 0.0, "results": one.results, "late": one.late, "rejected": one.rejected}
    figures |= {"trainers": one.present, "bytes_up": one.bytes_up, "bytes_down": one.bytes_down}
    if (best := one.best) is not None:
        figures |= {"value": best.value, "coverage": best.coverage, "diversity": best.diversity}
        figures |= {"fitness_best": best.fitness, "fitness_mean": best.fitness_mean}
        figures["fitness_worst"] = best.fitness_worst
        held_out = {name: getattr(best, name) for name in events.HELD_OUT_FIGURES}
        figures |= {name: value for name, value in held_out.items() if value is not None}
    return figures


def settings_of(run_state: RunState) -> dict[str, str]:
    """Return the settings of a run, by name."""
    names = ("task", "algorithm", "robust", "seed", "metric", "target", "rounds_max", "min_trainers")
    return {name: str(value) for name in names if (value := getattr(run_state, name)) not in ("", None)}
