"""The status of a run: from the lock on its folder, its events and its report, never from a stored flag."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmq.observe import events
from fedmq.observe.event_log import TAIL_BYTES, EventLog
from fedmq.observe.run_state import STALLED_S, RunState
from fedmq.runs.report import Report, write_report
from fedmq.runs.status import status_text
from fedmq.runs.store import Store
from fedmq.runtime.run_folder import EVENTS, STORE
from fedmq.tasks.task_file import find_task
from fedmq.testing import run_config, run_started

STARTED = run_started(run="run", term=1, round=1, task="xor", algorithm="evolution", seed=1)
ONE_OF_TWO = events.Waiting(present=1, needed=2)
JOINED = events.TrainerJoined(trainer="bob", num_examples=2)
LEFT = events.TrainerLeft(trainer="bob", goodbye=False)
PUBLISHED = events.RoundPublished(round=1, invited=2)
ACCEPTED = events.ResultAccepted(round=1, trainer="bob", staleness=0, train_s=0.1)
REJECTED = events.ResultRejected(trainer="bob", reason="sha256", detail="")
CLOSED = events.RoundClosed(round=1, why="complete", results=2, round_s=1.0, present=2, best=None)
PAUSED, RESUMED = events.RunPaused(), events.RunResumed()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Path]:
    """The folder of a run whose aggregator lives."""
    store = Store(tmp_path / STORE)
    store.begin(run_config("run", find_task("xor"), "evolution", seed=1, started=0.0))
    yield tmp_path
    store.close()


@pytest.fixture
def interrupted(tmp_path: Path) -> Path:
    """The folder of a run whose aggregator has died."""
    Store(tmp_path / STORE).close()
    return tmp_path


def happened(folder: Path, *told: events.AnyEvent) -> None:
    """One event a second from second 0 on; the log stays open, as that of a living aggregator does."""
    log = EventLog(folder / EVENTS, RunState())
    for at, event in enumerate(told):
        log(at, event)
    folder.joinpath("read").write_bytes((folder / EVENTS).read_bytes())  # before the log is closed
    log.close()
    (folder / "read").replace(folder / EVENTS)


def write_a_report(folder: Path, why: events.End, failure: str = "") -> None:
    report = Report(
        config=run_config("run"),
        solved=why == "solved",
        why=why,
        failure=failure,
        rounds=1,
        value=1.0,
        train_s=1.0,
        wall_s=1.0,
        round_s_median=1.0,
        trainers=[],
        rejections={},
        bytes_up=0,
        bytes_down=0,
        model=None,
        model_sha256=None,
    )
    write_report(folder, report, None, [])


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([], "running"),
        ([STARTED], "running"),
        ([STARTED, ONE_OF_TWO], "waiting for trainers (1 of 2)"),
        ([STARTED, ONE_OF_TWO, REJECTED, LEFT], "waiting for trainers (1 of 2)"),
        ([STARTED, ONE_OF_TWO, JOINED, PUBLISHED], "running"),
        ([STARTED, PUBLISHED, ACCEPTED], "running"),
        ([STARTED, PUBLISHED, CLOSED, ONE_OF_TWO], "waiting for trainers (1 of 2)"),
        ([STARTED, PUBLISHED, PAUSED], "paused"),
        ([STARTED, PUBLISHED, PAUSED, CLOSED], "paused"),
        ([STARTED, PUBLISHED, PAUSED, CLOSED, RESUMED, PUBLISHED], "running"),
        ([STARTED, PUBLISHED, PAUSED, CLOSED, RESUMED, ONE_OF_TWO], "waiting for trainers (1 of 2)"),
    ],
    ids=lambda value: "+".join(type(one).__name__ for one in value) if isinstance(value, list) else "",
)
def test_status_of_a_live_run_follows_its_last_events(running: Path, told: list[events.AnyEvent], state: str) -> None:
    happened(running, *told)
    assert status_text(running, len(told)) == state


@pytest.mark.parametrize(
    ("since_s", "state"),
    [
        (-86_400.0, "running"),  # the clock was set
        (0.0, "running"),
        (STALLED_S - 0.1, "running"),
        (STALLED_S, "stalled for 15 s"),
        (42.4, "stalled for 42 s"),
    ],
)
def test_round_without_results_is_stalled_after_a_limit(running: Path, since_s: float, state: str) -> None:
    happened(running, STARTED, ONE_OF_TWO, JOINED, PUBLISHED)
    assert status_text(running, 3.0 + since_s) == state


def test_stall_starts_at_the_publication_of_the_round(running: Path) -> None:
    happened(running, *[STARTED] * 18, PUBLISHED, CLOSED, PUBLISHED)
    assert status_text(running, 20.0 + STALLED_S - 0.5) == "running"


def test_waiting_or_paused_run_is_not_stalled(running: Path) -> None:
    happened(running, STARTED, ONE_OF_TWO)
    assert status_text(running, 1e6) == "waiting for trainers (1 of 2)"
    happened(running, PAUSED)
    assert status_text(running, 1e6) == "paused"


def test_run_without_a_writer_is_interrupted(interrupted: Path) -> None:
    assert status_text(interrupted, 0.0) == "interrupted"
    happened(interrupted, STARTED, ONE_OF_TWO)
    assert status_text(interrupted, 2.0) == "interrupted"


@pytest.mark.parametrize(
    ("why", "state"),
    [("solved", "solved"), ("rounds", "finished"), ("stopped", "stopped by an operator"), ("failed", "failed")],
)
def test_run_with_a_report_is_over(interrupted: Path, why: events.End, state: str) -> None:
    write_a_report(interrupted, why, "no rows" if why == "failed" else "")
    assert status_text(interrupted, 0.0) == state


def test_status_of_a_stopped_run_says_so(interrupted: Path) -> None:
    stopped = events.RunFinished(solved=False, rounds=1, value=1.0, why="stopped")
    happened(interrupted, STARTED, PUBLISHED, stopped)
    write_a_report(interrupted, "stopped")
    assert status_text(interrupted, 3.0) == "stopped by an operator"


@pytest.mark.parametrize(
    "junk",
    [b'{"at": 3.0, "event": "round-publ', b"\xff\xfe\n", b"[]\n7\n\n", b'{"at": "late", "event": "waiting"}\n'],
    ids=["half written", "no text", "no event", "no time"],
)
def test_lines_that_are_no_events_are_skipped(running: Path, junk: bytes) -> None:
    happened(running, STARTED, ONE_OF_TWO)
    with (running / EVENTS).open("ab") as file:
        file.write(junk)
    assert status_text(running, 2.0) == "waiting for trainers (1 of 2)"


def test_long_event_log_is_read_at_its_start_and_end(running: Path) -> None:
    happened(running, REJECTED, ONE_OF_TWO, *[REJECTED] * (TAIL_BYTES // 64))
    assert (running / EVENTS).stat().st_size > TAIL_BYTES
    assert status_text(running, 0.0) == "running", "what is said of it is too far back"
    happened(running, ONE_OF_TWO)
    assert status_text(running, 0.0) == "waiting for trainers (1 of 2)"
