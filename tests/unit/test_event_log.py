"""The event log: one event a line, read back as a run state, with a bounded size."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fedmq.errors import StoreError
from fedmq.observe import event_log, events
from fedmq.observe.event_log import EventLog, apply_line, read_run_state
from fedmq.observe.run_state import RunState
from fedmq.runtime.run_folder import EVENTS
from fedmq.testing import run_started

BEST = events.Best(value=1.0, coverage=1.0, fitness=-0.1, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)

EXAMPLES: list[events.AnyEvent] = [
    run_started(run="run", term=1, round=1, task="xor", algorithm="evolution", seed=7),
    events.Waiting(present=0, needed=2),
    events.TrainerJoined(trainer="bob", num_examples=2),
    events.RoundPublished(round=1, invited=2),
    events.ResultAccepted(round=1, trainer="bob", staleness=0, train_s=0.1),
    events.ResultRejected(trainer="", reason="sha256", detail='a "quoted" line\nand another'),
    events.TrainerLeft(trainer="bob", goodbye=True),
    events.RoundClosed(round=1, why="complete", results=2, round_s=0.5, present=2, best=BEST),
    events.RoundClosed(round=2, why="deadline", results=0, round_s=0.5, present=0, best=None),
    events.RunPaused(),
    events.RunResumed(),
    events.RunFinished(solved=False, rounds=2, value=None),
]

START_LINE, CLOSE_LINE = (
    msgspec.json.encode({"at": 1.0, **msgspec.to_builtins(one)}) for one in (EXAMPLES[0], EXAMPLES[7])
)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_event_is_one_json_line_with_time_and_kind(tmp_path: Path) -> None:
    log = EventLog(tmp_path / EVENTS, RunState())
    for at, event in enumerate(EXAMPLES):
        log(at, event)
    log.close()
    lines = lines_of(tmp_path / EVENTS)
    assert [line["at"] for line in lines] == list(range(len(EXAMPLES)))
    assert [line["event"] for line in lines] == [
        "run-started",
        "waiting",
        "trainer-joined",
        "round-published",
        "result-accepted",
        "result-rejected",
        "trainer-left",
        "round-closed",
        "round-closed",
        "run-paused",
        "run-resumed",
        "run-finished",
    ]
    assert lines[7]["best"]["fitness_mean"] == -0.5
    assert lines[8]["best"] is None


def test_continued_run_appends_to_its_events(tmp_path: Path) -> None:
    for _ in range(2):
        log = EventLog(tmp_path / EVENTS, RunState())
        log(0.0, EXAMPLES[0])
        log.close()
    assert len(lines_of(tmp_path / EVENTS)) == 2


def test_events_are_flushed_before_the_log_is_closed(tmp_path: Path) -> None:
    log = EventLog(tmp_path / EVENTS, RunState())
    log(0.0, EXAMPLES[4])
    log(0.0, EXAMPLES[7])
    assert [line["event"] for line in lines_of(tmp_path / EVENTS)] == ["result-accepted", "round-closed"]
    log(0.0, EXAMPLES[3])
    assert lines_of(tmp_path / EVENTS)[-1]["event"] == "round-published", "it shows the current status"
    log.close()


def test_unwritable_log_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_log, "open_private", lambda _path, append: os.open("/dev/full", os.O_RDWR))
    log = EventLog(tmp_path / EVENTS, RunState())
    with pytest.raises(
        StoreError, match=r"^[^\n]*events.jsonl: cannot be written \(No space left[^\n]*make room[^\n]*$"
    ):
        log(0.0, EXAMPLES[0])
    with pytest.raises(StoreError):
        log.close()


def written(path: Path, *happened: events.AnyEvent, bytes_max: int = 1 << 20, step: int = 1) -> RunState:
    """Append events to the log at `path`; return the state after them."""
    run_state = read_run_state(path)
    log = EventLog(path, run_state, bytes_max=bytes_max)
    for at in range(0, len(happened), step):
        for event in happened[at : at + step]:
            run_state.apply(float(at), event)
        log(float(at), *happened[at : at + step])
    log.close()
    return run_state


def test_read_state_equals_written_state(tmp_path: Path) -> None:
    run_state = written(tmp_path / EVENTS, *EXAMPLES)
    assert run_state.seq == len(EXAMPLES)
    assert read_run_state(tmp_path / EVENTS) == run_state


def test_missing_file_and_other_lines_are_skipped(tmp_path: Path) -> None:
    assert read_run_state(tmp_path / EVENTS) == RunState()
    (tmp_path / "file").touch()
    assert read_run_state(tmp_path / "file" / EVENTS) == RunState()
    run_state = written(tmp_path / EVENTS, *EXAMPLES)
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(b'{"at": 1.0, "event": "of another version"}\n\xff\n[]\n{"at": 2.0, "event": "run-pau')
    assert read_run_state(tmp_path / EVENTS) == run_state


def test_partial_line_of_a_crash_loses_no_later_line(tmp_path: Path) -> None:
    (tmp_path / EVENTS).write_bytes(START_LINE + b'\n{"at": 2.0, "event": "wai')
    log = EventLog(tmp_path / EVENTS, RunState())
    log(0.0, events.RunPaused())
    log.close()
    assert read_run_state(tmp_path / EVENTS).paused


@pytest.mark.parametrize("step", [1, 7])
def test_log_restarts_at_its_limit_without_losing_state(tmp_path: Path, step: int) -> None:
    rounds = [
        event
        for number in range(1, 600)
        for event in (
            events.RoundPublished(round=number, invited=2),
            events.ResultAccepted(round=number, trainer="bob", staleness=0, train_s=0.1),
            events.RoundClosed(round=number, why="complete", results=1, round_s=0.5, present=1, best=BEST),
        )
    ]
    whole = written(tmp_path / "whole.jsonl", EXAMPLES[0], *rounds, step=step)
    run_state = written(tmp_path / EVENTS, EXAMPLES[0], *rounds, bytes_max=40_000, step=step)
    assert (tmp_path / EVENTS).read_bytes().startswith(b'{"event":"summary"')
    assert (tmp_path / EVENTS).stat().st_size < (tmp_path / "whole.jsonl").stat().st_size
    assert run_state == whole
    assert read_run_state(tmp_path / EVENTS) == whole


@pytest.mark.parametrize(
    "line",
    [
        b'{"at":1.0,"event":"run-paused","nested":' + b"[" * 100_000,
        b'{"at":1e300,"event":"run-paused"}',
        START_LINE.replace(b'"xor"', b'"xor","model":{"type":"code","genes":0}'),
        CLOSE_LINE.replace(b"complete", b"=cmd()"),
    ],
)
def test_invalid_line_is_skipped(line: bytes) -> None:
    assert apply_line(RunState(), line) == RunState()


def test_tail_of_a_long_file_gives_the_status(tmp_path: Path) -> None:
    written(tmp_path / EVENTS, *EXAMPLES[:2], *[EXAMPLES[5]] * 50, events.RunPaused())
    run_state = read_run_state(tmp_path / EVENTS, tail=500)
    assert run_state.paused
    assert run_state.run == "run"  # from the first line
    assert run_state.seq < 11
