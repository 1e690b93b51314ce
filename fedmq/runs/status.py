"""The status of a run, from what its folder shows now: the lock, the events, the report; never from a stored flag."""

from pathlib import Path

import msgspec

from fedmq.algorithms.evaluation.figures import RowsOf
from fedmq.observe import events
from fedmq.observe.event_log import TAIL_BYTES, read_run_state
from fedmq.observe.run_state import ObservedRun, RunState
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.maintenance import open_store
from fedmq.runs.report import EarlierReport, Report, read_report
from fedmq.runtime.lock import is_locked
from fedmq.runtime.run_folder import EVENTS, REPORT


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One line in a list of runs."""

    folder: str
    run: str
    task: str
    algorithm: str
    state: str
    rounds: int
    value: float | None
    value_of: RowsOf = "training"  # the rows that it is of
    seed: int
    started: float  # seconds since 1970


def summarize(folder: Path, now: float) -> RunSummary:
    """Return the summary of the run in `folder`, from its report or, as long as there is none, from its store.

    Raises:
        BadConfiguration: the folder holds no run, or one that cannot be read.
    """
    source: Report | EarlierReport | RunConfig
    value: float | None
    value_of: RowsOf
    report, state = read_report(folder), status_text(folder, now)
    if report is not None:
        source, task, rounds = report, report.task, report.rounds
        value, value_of = report.value, report.value_of
        started = (folder / REPORT).stat().st_mtime - report.wall_s
    else:
        store, source = open_store(folder)
        with store:
            closes = list(store.closes())
        best = closes[-1].best if closes else None
        rounds = closes[-1].round if closes else 0
        value, value_of = (None, "training") if best is None else (best.value, best.value_of)
        task, started = source.task.name, source.started
    return RunSummary(
        folder=str(folder),
        run=source.run,
        task=task,
        algorithm=source.algorithm,
        state=state,
        rounds=rounds,
        value=value,
        value_of=value_of,
        seed=source.seed,
        started=started,
    )


def status_text(folder: Path, now: float) -> str:
    """Return the status in a few words; `now` is in seconds since 1970."""
    return ObservedRun(observe_run(folder, tail=TAIL_BYTES), now, is_locked(folder)).status_text


def observe_run(folder: Path, *, tail: int | None = None) -> RunState:
    """Fold the events of a run: all, or the first line and the last `tail` bytes."""
    state = read_run_state(folder / EVENTS, tail=tail)
    finish(state, folder)
    return state


def finish(state: RunState, folder: Path) -> None:
    """Mark `state` as finished if the folder has a report: events are not synced, and the last ones may be lost."""
    if state.finished is not None or is_locked(folder):
        return
    if (report := read_report(folder)) is not None:
        state.finished = events.RunFinished(
            solved=report.solved, rounds=report.rounds, value=report.value, why=report.why, detail=report.failure
        )
