"""`fedmq watch` without a network: the time of each run_state, the end, and a folder that grows."""

from __future__ import annotations

import io
import json
from collections import OrderedDict
from pathlib import Path

import msgspec
import pytest

from fedmq.dashboard.live_runs import WatchedRun
from fedmq.dashboard.run_folders import RunFolderFollower
from fedmq.dashboard.terminal import LOOK_S, TICK_S, Watcher
from fedmq.dashboard.terminal_output import JsonOutput, ScreenOutput, SingleOutput
from fedmq.errors import BadConfiguration, Unreachable
from fedmq.observe import events
from fedmq.observe.console import PrintableConsole
from fedmq.observe.event_log import EventLog
from fedmq.observe.run_state import ObservedRun, RunState
from fedmq.runtime.lock import FolderLock
from fedmq.runtime.run_folder import EVENTS
from fedmq.testing import VirtualClock, run_started

STARTED = run_started(run="one", term=1, round=1, task="xor", algorithm="evolution", seed=7, rounds_max=200)
FINISHED = events.RunFinished(solved=True, rounds=1, value=1.0)


class Source:
    """A source with runs that a test sets."""

    def __init__(self) -> None:
        self.runs: OrderedDict[str, WatchedRun] = OrderedDict()
        self.connected = False

    def step(self) -> None:
        """Receive nothing."""

    def add(self, name: str, *, received_at: float = 0.0) -> RunState:
        run_state = RunState()
        run_state.apply(1e9, run_started(run=name, term=1, round=1, task="xor", algorithm="evolution", seed=7))
        self.runs[name] = WatchedRun(run_state)
        self.runs[name].received_at = received_at
        return run_state


class Shown:
    """Records the output."""

    def __init__(self) -> None:
        self.views: list[tuple[list[str], str]] = []
        self.problems: list[str] = []

    def show(self, several: list[ObservedRun], note: str) -> None:
        self.views.append(([f"{one.run_state.run} {one.status_text}" for one in several], note))

    def show_problem(self, note: str) -> None:
        self.problems.append(note)

    def close(self) -> None:
        """Nothing is open."""


def scene(
    *, run: str | None = None, once: bool = False, timeout_s: float | None = None
) -> tuple[Watcher, Source, Shown, VirtualClock]:
    source, shown, clock = Source(), Shown(), VirtualClock()
    watcher = Watcher(source, shown, clock=clock, where="tcp://b:1", run=run, once=once, timeout_s=timeout_s)
    return watcher, source, shown, clock


def test_missing_broker_is_reported_and_retried() -> None:
    watcher, source, shown, clock = scene()
    watcher.step()
    assert shown.views == [([], "the broker at tcp://b:1 does not answer; trying again")]
    source.connected = True
    source.add("one", received_at=1.0)
    clock.move_to(1.0)
    watcher.step()
    assert shown.views[-1] == (["one running"], "")
    assert not watcher.done


@pytest.mark.parametrize(("behind_s", "state"), [(90.0, "running"), (60.0, "stalled for 30 s")])
def test_slow_clock_of_the_aggregator_is_no_stall(behind_s: float, state: str) -> None:
    watcher, source, shown, clock = scene()
    source.connected = True
    source.add("one", received_at=90.0)
    source.runs["one"].ahead_s = -behind_s
    clock.move_to(90.0)
    watcher.step()
    assert shown.views[-1][0] == [f"one {state}"]


def test_watch_ends_after_the_timeout_without_a_broker() -> None:
    watcher, _, _, clock = scene(timeout_s=3)
    watcher.step()
    clock.move_to(3.0)
    with pytest.raises(Unreachable, match="no broker answered at tcp://b:1 within 3 s"):
        watcher.step()


def test_watch_waits_for_a_broker_that_was_connected() -> None:
    watcher, source, shown, clock = scene(timeout_s=3)
    source.connected = True
    source.add("one")
    watcher.step()
    source.connected = False
    clock.move_to(10.0)
    watcher.step()
    assert shown.views[-1] == (["one interrupted"], "the broker at tcp://b:1 does not answer; trying again")


def test_views_are_limited_in_rate_and_updated_without_events() -> None:
    watcher, source, shown, clock = scene()
    source.connected = True
    run_state = source.add("one")
    watcher.step()
    for hundredth in range(1, 41):
        clock.move_to(hundredth / 100)
        run_state.apply(1e9, events.RoundPublished(round=hundredth, invited=1))
        watcher.step()
        assert watcher.wake_at is not None
        assert watcher.wake_at > clock.now()
    assert 4 <= len(shown.views) <= 6
    before = len(shown.views)
    clock.move_to(clock.now() + 2 * TICK_S)
    watcher.step()
    assert len(shown.views) == before + 1


def test_watch_ends_with_its_run_and_shows_the_end() -> None:
    watcher, source, shown, _ = scene(run="two")
    source.connected = True
    source.add("one").apply(1e9, FINISHED)
    two = source.add("two")
    watcher.step()
    assert (watcher.done, shown.views[-1]) == (False, (["two running"], ""))
    two.apply(1e9, FINISHED)
    watcher.step()
    assert (watcher.done, shown.views[-1]) == (True, (["two solved"], ""))


def test_once_shows_a_finished_run_at_once() -> None:
    watcher, source, shown, _ = scene(run="one", once=True)
    source.connected = True
    watcher.step()
    assert shown.views == []
    source.add("one").apply(1e9, FINISHED)
    watcher.step()
    assert (watcher.done, shown.views) == (True, [(["one solved"], "")])


def test_once_waits_for_the_snapshots_of_the_broker() -> None:
    watcher, source, shown, clock = scene(once=True)
    source.connected = True
    watcher.step()
    source.add("one")
    source.add("two", received_at=-9.0)
    watcher.step()
    assert shown.views == []
    clock.move_to(LOOK_S)
    watcher.step()
    assert (watcher.done, shown.views) == (True, [(["one running", "two interrupted"], "")])


def test_once_with_an_unknown_run_names_the_known_runs() -> None:
    watcher, source, _, clock = scene(run="nope", once=True)
    source.connected = True
    source.add("one")
    watcher.step()
    clock.move_to(LOOK_S)
    with pytest.raises(BadConfiguration, match="expected a run nope at tcp://b:1, got: one"):
        watcher.step()


def test_once_reports_that_it_waits_for_the_broker() -> None:
    watcher, _, shown, clock = scene(once=True)
    watcher.step()
    clock.move_to(LOOK_S)
    watcher.step()
    assert shown.problems == ["the broker at tcp://b:1 does not answer; trying again"]


# --- output --------------------------------------------------------------------------------------------------------


def seen(*happened: events.AnyEvent) -> ObservedRun:
    run_state = RunState()
    for event in (STARTED, *happened):
        run_state.apply(100.0, event)
    return ObservedRun(run_state, 101.0, connected=True)


def test_json_lines_are_printed_for_changes_only(capsys: pytest.CaptureFixture[str]) -> None:
    lines = JsonOutput()
    now = seen(events.TrainerJoined(trainer="bob", num_examples=3))
    lines.show([now], "")
    lines.show([now._replace(now=102.0)], "")
    now.run_state.apply(102.0, events.RunPaused())
    lines.show([now._replace(now=102.0)], "the broker does not answer")
    out, err = capsys.readouterr()
    first, second = map(json.loads, out.splitlines())
    assert (first["run"], first["state"], first["round"], first["rounds_max"]) == ("one", "running", 0, 200)
    assert [(one["name"], one["num_examples"], one["presence"]) for one in first["trainers"]] == [("bob", 3, "alive")]
    assert second["state"] == "paused"
    assert err == "fedmq: the broker does not answer\n"


def test_pipe_receives_one_view_without_colors() -> None:
    screen = io.StringIO()
    SingleOutput(PrintableConsole(file=screen, width=100)).show([seen()], "")
    assert screen.getvalue().startswith("one  xor, evolution, seed 7")
    assert "\x1b" not in screen.getvalue()


def test_screen_restores_the_terminal_and_leaves_the_last_view() -> None:
    written = io.StringIO()
    screen = ScreenOutput(PrintableConsole(file=written, force_terminal=True, width=100, height=30, color_system=None))
    screen.show([seen()], "a note")
    screen.close()
    inside, after = written.getvalue().split("\x1b[?1049l")
    assert "\x1b[?1049h" in inside  # the alternate screen
    assert "a note" in after
    assert "one  xor, evolution, seed 7" in after


# --- folders -------------------------------------------------------------------------------------------------------


def test_folder_is_followed_also_when_its_log_restarts(tmp_path: Path) -> None:
    run_state, clock = RunState(), VirtualClock()
    log = EventLog(tmp_path / EVENTS, run_state, bytes_max=400)

    def tell(event: events.AnyEvent) -> None:
        run_state.apply(100.0, event)
        log(100.0, event)

    tell(STARTED)
    follower = RunFolderFollower(tmp_path, clock=clock)
    (watched,) = follower.runs.values()
    for number in range(1, 50):
        tell(events.RoundPublished(round=number, invited=1))
        follower.step()
        assert (watched.run_state.seq, watched.run_state.newest) == (run_state.seq, run_state.newest)
    assert (tmp_path / EVENTS).read_bytes().startswith(b'{"event":"summary"')
    follower.close()
    log.close()


def test_partial_line_is_applied_when_complete(tmp_path: Path) -> None:
    line = msgspec.json.encode({"at": 1, **msgspec.to_builtins(STARTED)})
    (tmp_path / EVENTS).write_bytes(line[:90])
    with (tmp_path / EVENTS).open("ab") as file:
        file.write(line[90:] + b'\n{"at":2,"event":"wait')
    follower = RunFolderFollower(tmp_path, clock=VirtualClock())
    assert follower.runs["one"].run_state.seq == 1
    with (tmp_path / EVENTS).open("a") as file:
        file.write('ing","present":0,"needed":2}\n')
    follower.step()
    assert follower.runs["one"].run_state.waiting == (0, 2)
    follower.close()


def test_partial_line_is_dropped_when_the_log_restarts(tmp_path: Path) -> None:
    line = msgspec.json.encode({"at": 1.0, **msgspec.to_builtins(STARTED)}) + b"\n"
    (tmp_path / EVENTS).write_bytes(line + b'{"at":2,"event":"wait')
    follower = RunFolderFollower(tmp_path, clock=VirtualClock())
    (tmp_path / "anew").write_bytes(line)
    (tmp_path / "anew").replace(tmp_path / EVENTS)
    follower.step()
    assert follower.runs["one"].run_state.seq == 1
    follower.close()


def test_lock_of_a_folder_shows_a_live_aggregator(tmp_path: Path) -> None:
    log = EventLog(tmp_path / EVENTS, RunState())
    log(1e9, STARTED)
    log.close()
    clock = VirtualClock()
    follower, lock = RunFolderFollower(tmp_path, clock=clock), FolderLock(tmp_path)
    follower.step()
    assert follower.runs["one"].connected(clock.now())
    lock.release()
    follower.step()
    assert not follower.runs["one"].connected(clock.now())
    follower.close()


@pytest.mark.parametrize("there", [True, False])
def test_folder_without_a_run_is_rejected_in_one_line(there: bool, tmp_path: Path) -> None:
    if there:
        (tmp_path / EVENTS).write_text("no event\n")
    with pytest.raises(BadConfiguration, match="expected the folder of a run"):
        RunFolderFollower(tmp_path, clock=VirtualClock())
