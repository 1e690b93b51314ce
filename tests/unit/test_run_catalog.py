"""The run catalog with live runs and folders, and the bounds of page streams."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fedmq.dashboard.live_runs import CONNECTED_S, LiveRuns, WatchedRun
from fedmq.dashboard.run_catalog import PageCursor, RunCatalog
from fedmq.dashboard.run_folders import FOLLOWED_MAX, SCAN_S, RunFolders
from fedmq.dashboard.server_sent_events import (
    QUEUE_MAX,
    STREAMS_MAX,
    PageStream,
    PageStreams,
    TooManyStreams,
    format_event,
)
from fedmq.observe import events
from fedmq.observe.event_log import TAIL_BYTES
from fedmq.observe.run_state import RunState
from fedmq.protocol.codec import Frames
from fedmq.testing import VirtualClock, run_started
from fedmq.transport.link import LinkEvent


def started(run: str, term: int = 1) -> events.RunStarted:
    return run_started(run=run, term=term, round=1, task="xor", algorithm="evolution", seed=1, rounds_max=9)


def finished(rounds: int = 1) -> events.RunFinished:
    return events.RunFinished(solved=True, rounds=rounds, value=1.0)


def a_round(number: int) -> list[events.AnyEvent]:
    return [
        events.RoundPublished(round=number, invited=1),
        events.RoundClosed(round=number, why="complete", results=1, round_s=0.1, present=1, best=None),
    ]


def write(folder: Path, *story: events.AnyEvent) -> Path:
    """Append events to the log of a folder."""
    folder.mkdir(exist_ok=True)
    with (folder / "events.jsonl").open("ab") as file:
        for one in story:
            file.write(msgspec.json.encode({"at": 1e9, **msgspec.to_builtins(one)}) + b"\n")
    return folder


class Silence:
    """A link that receives nothing."""

    def receive(self) -> Iterator[LinkEvent]:
        yield from ()

    def send(self, frames: Frames) -> bool:
        return False


class Scene:
    """A catalog of a folder, and of live runs that a test sets."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock()
        self.live_runs = LiveRuns(Silence(), clock=self.clock)
        self.catalog = RunCatalog(
            self.live_runs, RunFolders(folder, clock=self.clock), address="tcp://b", clock=self.clock
        )

    def live(self, run: str, *story: events.AnyEvent) -> RunState:
        watched = self.live_runs.runs.setdefault(run, WatchedRun(RunState()))
        for one in story:
            watched.run_state.apply(1e9, one)
        watched.received_at = self.clock.now()
        return watched.run_state

    def pass_s(self, seconds: float) -> None:
        self.clock.move_to(self.clock.now() + seconds)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path)
    yield found
    found.catalog.close()


def kinds(messages: list[tuple[str, bytes]]) -> list[str]:
    return [kind for kind, _ in messages]


def test_live_run_with_a_folder_is_listed_once(scene: Scene, tmp_path: Path) -> None:
    write(tmp_path / "a", started("one"), *a_round(1))
    write(tmp_path / "b", started("two"), finished())
    scene.live("one", started("one"), *a_round(1))
    rows = scene.catalog.runs()["runs"]
    assert [(row["run"], row["source"], row["connected"]) for row in rows] == [
        ("one", "live", True),
        ("two", "folder", False),
    ]
    scene.pass_s(CONNECTED_S + SCAN_S)
    rows = {row["run"]: row for row in scene.catalog.runs()["runs"]}
    assert rows["one"]["source"] == "folder", "its aggregator is not connected: the folder is newer"
    assert rows["one"]["state"] == "interrupted"


def test_folders_of_one_run_are_listed_under_their_own_names(scene: Scene, tmp_path: Path) -> None:
    """The same --run every night, and a folder for each."""
    for night in ("monday", "tuesday", "wednesday"):
        folder = write(tmp_path / night, started("nightly"), *a_round(1), finished())
        os.utime(folder / "events.jsonl", (1e9, 1e9 + len(night)))
    rows = {row["run"]: row["folder"] for row in scene.catalog.runs()["runs"]}
    assert rows == {"nightly": "wednesday", "tuesday": "tuesday", "monday": "monday"}
    for name in rows:
        values = scene.catalog.values(name)
        assert values is not None
        assert values["head"]["folder"] == str(tmp_path / rows[name])


def test_folders_that_cannot_be_listed_stay_known(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    write(tmp_path / "a", started("one"), *a_round(1))
    before = scene.catalog.runs()["runs"]
    monkeypatch.setattr(Path, "glob", fail)
    scene.pass_s(SCAN_S)
    assert scene.catalog.runs()["runs"] == before != []


def test_joining_page_receives_all_values_or_the_missing_ones(scene: Scene) -> None:
    run_state = scene.live("one", started("one"), *a_round(1))
    known = [(1, 1), (1, run_state.seq), (1, run_state.seq + 1), (2, 1), (0, 1)]
    update = scene.catalog.update("one", None, [None, *known])
    assert update is not None
    assert kinds(update.joining) == ["full", "patch", "patch", "full", "full", "full"]
    assert update.patch is None
    assert (update.cursor.term, update.cursor.seq) == (1, 3)


def test_page_receives_a_patch_or_all_values_after_a_restart(scene: Scene) -> None:
    scene.live("one", started("one"), *a_round(1))
    first = scene.catalog.update("one", None, [])
    assert first is not None
    again = scene.catalog.update("one", first.cursor, [])
    assert again is not None
    assert again.patch is None
    scene.live("one", *a_round(2))
    second = scene.catalog.update("one", again.cursor, [])
    assert second is not None
    assert second.patch is not None
    assert second.patch[0] == "patch"
    assert msgspec.json.decode(second.patch[1])["rounds"]["round"] == [2]
    for cursor in (PageCursor(1, 99, {}), PageCursor(0, 1, {})):
        update = scene.catalog.update("one", cursor, [])
        assert update is not None
        assert update.patch is not None
        assert update.patch[0] == "full"
    assert scene.catalog.update("none", None, []) is None


def test_end_of_a_run_sends_all_values_if_a_round_was_open(scene: Scene) -> None:
    run_state = scene.live("one", started("one"), *a_round(1), events.RoundPublished(round=2, invited=1))
    first = scene.catalog.update("one", None, [])
    assert first is not None
    scene.live("one", finished())
    update = scene.catalog.update("one", first.cursor, [(1, first.cursor.seq), (1, run_state.seq)])
    assert update is not None
    assert update.patch is not None
    assert [update.patch[0], *kinds(update.joining)] == ["full", "full", "patch"]
    assert msgspec.json.decode(update.patch[1])["rounds"]["round"] == [1]


def test_page_times_follow_the_clock_of_the_aggregator(scene: Scene) -> None:
    scene.live("one", started("one"), events.RoundPublished(round=1, invited=1))
    scene.live_runs.runs["one"].ahead_s = -90.0
    scene.pass_s(100.0)
    scene.live("one")
    values = [scene.catalog.values("one"), *scene.catalog.runs()["runs"]]
    update = scene.catalog.update("one", None, [None])
    assert update is not None
    values.append(msgspec.json.decode(update.joining[0][1]))
    assert [(one or {}).get("now") for one in values] == [1e9 + 10, None, 1e9 + 10]
    assert [(one or {}).get("head", one)["state"] for one in values] == ["running"] * 3
    scene.pass_s(40.0)
    scene.live("one")
    assert scene.catalog.runs()["runs"][0]["state"] == "stalled for 50 s"


def test_growing_folder_is_followed(scene: Scene, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", started("one"), *a_round(1))
    first = scene.catalog.update("one", None, [])
    assert first is not None
    write(folder, *a_round(2), finished(2))
    scene.pass_s(SCAN_S)
    second = scene.catalog.update("one", first.cursor, [])
    assert second is not None
    assert second.patch is not None
    assert msgspec.json.decode(second.patch[1])["rounds"]["round"] == [2]
    assert scene.catalog.is_over("one")


def test_list_reads_only_the_start_and_the_end_of_a_long_run(scene: Scene, tmp_path: Path) -> None:
    rounds = TAIL_BYTES // 100
    folder = write(tmp_path / "a", started("long"), *(event for number in range(rounds) for event in a_round(number)))
    assert (folder / "events.jsonl").stat().st_size > 2 * TAIL_BYTES
    write(folder, finished(rounds))
    (row,) = scene.catalog.runs()["runs"]
    assert (row["run"], row["task"], row["state"], row["round"]) == ("long", "xor", "solved", rounds - 1)


def test_number_of_open_folders_is_bounded(scene: Scene, tmp_path: Path) -> None:
    for number in range(FOLLOWED_MAX + 3):
        write(tmp_path / f"{number}", started(f"run-{number}"))
    for number in range(FOLLOWED_MAX + 3):
        assert scene.catalog.values(f"run-{number}") is not None
    assert len(scene.catalog._folders._followed) == FOLLOWED_MAX


def test_folders_without_a_run_or_with_an_illegal_name_are_ignored(scene: Scene, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "events.jsonl").write_bytes(b"\xff nothing\n" * 9)
    write(tmp_path / "b", started("../b"))
    assert scene.catalog.runs()["runs"] == []
    assert scene.catalog.values("../b") is None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["events.jsonl", "report.json", "store.sqlite3"])
def test_fifo_in_a_folder_of_runs_hides_that_run_only(scene: Scene, tmp_path: Path, name: str) -> None:
    write(tmp_path / "good", started("good"), finished())
    write(tmp_path / "bad", *([started("bad")] if name != "events.jsonl" else []))
    (tmp_path / "bad" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "bad" / name)
    assert "good" in [row["run"] for row in scene.catalog.runs()["runs"]]
    if name != "store.sqlite3":  # the page reads no store
        assert scene.catalog.values("bad") is None


@pytest.mark.timeout(20)
def test_events_of_gigabytes_are_not_read(scene: Scene, tmp_path: Path) -> None:
    write(tmp_path / "good", started("good"))
    grown = write(tmp_path / "grown", started("grown"), *a_round(1)) / "events.jsonl"
    huge = write(tmp_path / "huge", started("huge")) / "events.jsonl"
    os.truncate(huge, 3 << 30)  # one line of zeros, without its blocks on disk
    assert {row["run"] for row in scene.catalog.runs()["runs"]} == {"good", "grown"}
    assert scene.catalog.values("grown") is not None
    os.truncate(grown, 3 << 30)
    scene.clock.move_to(SCAN_S)
    assert scene.catalog.values("grown") is None
    assert scene.catalog.values("good") is not None


def test_slow_stream_is_closed_and_others_stay_open() -> None:
    async def play() -> None:
        slow, quick = PageStream(None), PageStream(None)
        chunks = quick.chunks()
        assert await anext(chunks) == b"retry: 1000\n\n"
        for number in range(QUEUE_MAX + 1):
            chunk = format_event("patch", b"%d" % number)
            slow.send(chunk)
            quick.send(chunk)
            assert await anext(chunks) == chunk
        assert (slow.closed, quick.closed) == (True, False)
        assert [chunk async for chunk in slow.chunks()] == [b"retry: 1000\n\n"]

    asyncio.run(play())


def test_number_of_open_streams_is_bounded(scene: Scene) -> None:
    async def play() -> None:
        streams = PageStreams(scene.catalog)
        opened = [streams.stream("one", "") for _ in range(STREAMS_MAX)]
        for one in opened:
            await one.__aenter__()
        with pytest.raises(TooManyStreams):
            await streams.stream("one", "").__aenter__()
        await opened[0].__aexit__(None, None, None)
        await streams.stream("one", "").__aenter__()
        assert streams.open == STREAMS_MAX

    asyncio.run(play())
