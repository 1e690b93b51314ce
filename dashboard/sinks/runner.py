"""Feeds sinks: each closed round of each run that is watched once, in order, then how the run ended.

Knows nothing of where a sink puts it. What has happened before we came is in the first picture of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Protocol

import msgspec

from fedmq.dashboard.live_runs import LiveRuns, Watched
from fedmq.observe.events import RunFinished
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.runtime.clock import Clock
from fedmq.runtime.run_folder import REPORT

AT_ONCE_MAX = 100  # rounds that a sink takes before the network has its turn
REPORT_S = 5.0  # how long we look for a report, once a run is over
REPORT_BYTES_MAX = 16 << 20
POLL_S = 0.1

Report = dict[str, Any]


class Sink(Protocol):
    """Where one run goes. `last` is the newest round that is there already: an earlier life of ours put it there."""

    last: int

    def take(self, rounds: list[RoundRecord]) -> None:
        """Put these closed rounds there."""
        ...

    def finish(self, finished: RunFinished, report: Report | None) -> None:
        """The run is over; `report` is None where its folder is out of reach."""
        ...

    def close(self) -> None:
        """Let go; the run may go on later."""
        ...


class Feeding:
    """All runs at one broker, or one of them, until it is over; see `loop.Service`. `runs` is where folders may be."""

    def __init__(
        self,
        watching: LiveRuns,
        open_sink: Callable[[RunState], Sink],
        clock: Clock,
        runs: Path,
        only: str | None = None,
    ) -> None:
        self._watching, self._open, self._clock, self._runs, self._only = watching, open_sink, clock, runs, only
        self._sinks: dict[str, Sink] = {}
        self._over: dict[str, tuple[int, int]] = {}  # the term, and the rounds, with which a run ended
        self._look_until: dict[str, float] = {}  # for the report of a run that is over
        self._more = self._only_is_over = False

    @property
    def done(self) -> bool:
        return self._watching.done or self._only_is_over

    @property
    def wake_at(self) -> float | None:
        if self._more:
            return self._clock.now()
        return self._clock.now() + POLL_S if self._look_until else None

    @property
    def status(self) -> str:
        return self._watching.status

    def stop(self) -> None:
        self._watching.stop()

    def step(self) -> None:
        """See `loop.Service`; raises what the watching and the sinks do."""
        self._watching.step()
        self._forget(self._watching.runs)
        self._more = False
        for run, watched in self._watching.runs.items():
            if self._only in (None, run):
                self._feed(run, watched)

    def close(self) -> None:
        """Let go of all sinks."""
        for sink in self._sinks.values():
            sink.close()

    def _forget(self, known: Collection[str]) -> None:
        """What is not watched any more: there are too many others."""
        for run in [run for run in self._sinks if run not in known]:
            self._sinks.pop(run).close()
            self._look_until.pop(run, None)
        for run in [run for run in self._over if run not in known]:
            del self._over[run]

    def _feed(self, run: str, watched: Watched) -> None:
        view = watched.view
        if self._over.get(run) == (view.term, len(view.rounds)):
            return
        if run not in self._sinks:
            self._sinks[run] = self._open(view)
        sink = self._sinks[run]
        new = _closed_after(view.rounds, sink.last)
        if new:
            sink.take(new[:AT_ONCE_MAX])
            sink.last = new[min(len(new), AT_ONCE_MAX) - 1].round
        if len(new) > AT_ONCE_MAX:
            self._more = True
        elif view.finished is not None:
            self._finish(run, view, view.finished)

    def _finish(self, run: str, view: RunState, finished: RunFinished) -> None:
        """Once its report is there, or has not come in time."""
        now = self._clock.now()
        report = read_report(self._runs / run / REPORT)
        if report is None and now < self._look_until.setdefault(run, now + REPORT_S):
            return
        self._look_until.pop(run, None)
        self._over[run] = (view.term, len(view.rounds))
        sink = self._sinks.pop(run)
        sink.finish(finished, report)
        sink.close()
        self._only_is_over = run == self._only


def _closed_after(rounds: list[RoundRecord], last: int) -> list[RoundRecord]:
    """The closed rounds after that one, the oldest first."""
    new = []
    for one in reversed(rounds):
        if one.round <= last:
            break
        if one.closed_at is not None:
            new.append(one)
    return new[::-1]


def figures_of(one: RoundRecord) -> dict[str, float]:
    """What a sink says of a closed round, by name."""
    figures = {"round_s": one.round_s or 0.0, "results": one.results, "late": one.late, "rejected": one.rejected}
    figures |= {"trainers": one.present, "bytes_up": one.bytes_up, "bytes_down": one.bytes_down}
    if (best := one.best) is not None:
        figures |= {"value": best.value, "coverage": best.coverage, "diversity": best.diversity}
        figures |= {"fitness_best": best.fitness, "fitness_mean": best.fitness_mean}
        figures["fitness_worst"] = best.fitness_worst
    return figures


def parameters_of(view: RunState) -> dict[str, str]:
    """What was chosen for a run, by name."""
    names = ("task", "strategy", "robust", "seed", "metric", "target", "rounds_max", "min_trainers")
    return {name: str(value) for name in names if (value := getattr(view, name)) not in ("", None)}


def read_report(path: Path) -> Report | None:
    """The report of a run whose folder is on this machine; None: it is not there, or not whole."""
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(REPORT_BYTES_MAX), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return None
