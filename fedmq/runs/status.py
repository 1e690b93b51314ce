"""The status of a run, from what its folder shows now: the lock, the events, the report; never from a stored flag."""

from pathlib import Path

import msgspec

from fedmq.observe import events
from fedmq.observe.event_log import TAIL_BYTES, read_run_state
from fedmq.observe.run_state import ObservedRun, RunState
from fedmq.runs.maintenance import open_store
from fedmq.runs.report import read_report
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
    seed: int
    started: float  # seconds since 1970


def summarize(folder: Path, now: float) -> RunSummary:
    """Return the summary of the run in `folder`, from its report or, as long as there is none, from its store.

    Raises:
        BadConfiguration: the folder holds no run, or one that cannot be read.
    """
    report, state = read_report(folder), status_text(folder, now)
    if report is not None:
        started = (folder / REPORT).stat().st_mtime - report.wall_s
        return RunSummary(
            folder=str(folder),
            run=report.run,
            task=report.task,
            algorithm=report.algorithm,
            state=state,
            rounds=report.rounds,
            value=report.value,
            seed=report.seed,
            started=started,
        )
    store, config = open_store(folder)
    closes = list(store.closes())
    store.close()
    last = closes[-1] if closes else None
    return RunSummary(
        folder=str(folder),
        run=config.run,
        task=config.task.name,
        algorithm=config.algorithm,
        state=state,
        rounds=0 if last is None else last.round,
        value=None if last is None or last.best is None else last.best.value,
        seed=config.seed,
        started=config.started,
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
        state.finished = events.RunFinished(solved=report.solved, rounds=report.rounds, value=report.value)
