"""Several processes of a trainer on one spool: each sends the pending results of the one before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs
from test_spool import ARRAYS, SAMPLES, result

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.protocol.codec import Frames, Packet, decode, encode
from fedmq.protocol.messages import (
    Accepted,
    Beacon,
    Finished,
    Goodbye,
    Hello,
    Message,
    Result,
    Round,
    Welcome,
)
from fedmq.runtime.rng import derive_rng
from fedmq.security.keys import Identity
from fedmq.tasks.task_file import find_task
from fedmq.testing import VirtualClock
from fedmq.trainer.followed_run import PENDING_SILENT_S
from fedmq.trainer.high_water_marks import HighWaterMark, HighWaterMarks
from fedmq.trainer.machine import PendingResult, SumIdentity
from fedmq.trainer.service import NewKeys, Trainer
from fedmq.trainer.session import PENDING_MAX, RUNS_MAX, Session
from fedmq.trainer.spool import SUFFIX, FileSpool, MemorySpool, Spool
from fedmq.trainer.worker import Done
from fedmq.transport.link import Delivered, LinkDown, LinkEvent, LinkUp

ROUND = Round(
    run="run",
    term=3,
    round=5,
    seed=0,
    deadline_s=9.0,
    task=find_task("linear"),
    query=encode_query(Train(GradientLearner())),
)


class Recorder:
    """A link and a worker that the test controls; `order` lists their calls."""

    def __init__(self, order: list[str]) -> None:
        self.order = order
        self.news: list[LinkEvent] = []
        self.sent: list[Result] = []
        self.hellos = 0
        self.finished: list[Done] = []

    def receive(self) -> Iterator[LinkEvent]:
        news, self.news = self.news, []
        yield from news

    def send(self, frames: Frames) -> bool:
        message = decode(frames).message
        if isinstance(message, Result):
            self.order.append(f"send {message.round}")
            self.sent.append(message)
        elif isinstance(message, Hello):
            self.hellos += 1
        elif isinstance(message, Goodbye):
            self.order.append("goodbye")
        return True

    def start(self, packet: Packet) -> None:
        self.order.append(f"work {packet.message.round}")  # type: ignore[union-attr]

    def cancel(self) -> None:
        self.order.append("cancel")

    def refresh(self) -> None:
        self.order.append("refresh")

    def done(self) -> list[Done]:
        finished, self.finished = self.finished, []
        return finished


class Noted:
    """A spool that records its calls."""

    def __init__(self, spool: Spool, order: list[str]) -> None:
        self._spool, self._order = spool, order

    def keep(self, kept: PendingResult, trainer: str) -> None:
        self._order.append(f"keep {kept.round}")
        self._spool.keep(kept, trainer)

    def drop(self, run: str, round: int) -> None:
        self._order.append(f"drop {round}")
        self._spool.drop(run, round)

    def mark(self, mark: HighWaterMark) -> None:
        self._spool.mark(mark)


class Life:
    """One process of bob, on a spool that outlives it."""

    def __init__(
        self, spool: Spool, kept: list[PendingResult], at: float = 0.0, marks: HighWaterMarks | None = None
    ) -> None:
        self.order: list[str] = []
        self.outside, self.clock = Recorder(self.order), VirtualClock()
        self.clock.move_to(at)
        session = Session("bob", SAMPLES, "test", derive_rng(1, "jitter"), kept, marks=marks)
        self.trainer = Trainer(self.outside, session, self.outside, clock=self.clock, spool=Noted(spool, self.order))
        self.news(LinkUp())

    def news(self, *news: LinkEvent) -> None:
        self.outside.news += news
        self.trainer.step()

    def hear(self, message: Message, **arrays: Any) -> None:
        self.news(Delivered(encode("topic", message, arrays)))

    def works_on(self, message: Round) -> None:
        self.hear(message, model=np.zeros(3))
        self.outside.finished.append(Done(message.run, message.round, dict(ARRAYS), 0.25))
        self.trainer.step()

    def later(self, seconds: float) -> None:
        self.clock.move_to(self.clock.now() + seconds)
        self.trainer.step()


@pytest.fixture(params=["memory", "files"])
def lives(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Start one process after the other, on the same spool."""
    memory, folder = MemorySpool(), tmp_path / "spool"

    def begin() -> Life:
        if request.param == "memory":
            return Life(memory, list(memory.results.values()))
        spool = FileSpool(folder)
        return Life(spool, spool.load("bob", SAMPLES))

    return begin


def test_result_is_stored_before_sent_and_dropped_when_acknowledged(lives: Any) -> None:
    life = lives()
    life.works_on(ROUND)
    life.hear(Accepted(run="run", term=3, trainer="bob", round=5))
    assert life.order == ["work 5", "keep 5", "send 5", "drop 5"]
    assert lives().trainer.session.runs == {}


def test_unsent_result_is_sent_after_restart_without_new_work(lives: Any) -> None:
    first = lives()
    first.news(LinkDown())
    first.works_on(ROUND)
    assert first.order == ["work 5", "keep 5"], "killed before it could be sent"

    second = lives()
    second.later(0.2)
    second.hear(ROUND, model=np.zeros(3))
    assert second.order == ["send 5"]
    (sent,) = second.outside.sent
    assert (sent.run, sent.term, sent.round, sent.attempt, sent.train_s) == ("run", 3, 5, 1, 0.25)


def test_result_of_the_previous_process_is_acknowledged(lives: Any) -> None:
    lives().works_on(ROUND)
    second = lives()
    second.hear(Welcome(run="run", term=3, trainer="bob", index=1))
    second.hear(Beacon(run="run", term=3, round=5, open=True, acknowledged=bytes([0b10])))
    assert second.order == ["drop 5"]
    assert lives().trainer.session.wake_at is None


def test_restarted_trainer_works_on_the_next_round(lives: Any) -> None:
    lives().works_on(ROUND)
    second = lives()
    second.works_on(structs.replace(ROUND, round=6))
    assert second.order == ["work 6", "keep 6", "send 6"]
    second.hear(Accepted(run="run", term=3, trainer="bob", round=6))
    second.later(0.2)
    assert second.order[3:] == ["drop 6", "send 5"], "one result in flight, the newest first"


def test_new_term_gets_the_result_of_the_previous_process(lives: Any) -> None:
    lives().works_on(ROUND)
    second = lives()
    second.hear(Beacon(run="run", term=4, round=0, open=False))
    second.later(0.2)
    assert [(sent.term, sent.round) for sent in second.outside.sent] == [(4, 5)]


def test_old_term_is_ignored_after_a_restart_of_the_trainer(lives: Any) -> None:
    lives().works_on(ROUND)
    second = lives()
    second.hear(Finished(run="run", term=2, rounds=5, solved=True))
    assert "drop 5" not in second.order
    assert second.trainer.session.runs["run"].pending.keys() == {5}


def test_finished_run_empties_the_spool(lives: Any) -> None:
    lives().works_on(ROUND)
    lives().hear(Finished(run="run", term=3, rounds=5, solved=True))
    assert lives().trainer.session.runs == {}


def test_term_of_a_replaced_key_silences_no_run(tmp_path: Path) -> None:
    """A stolen key can sign a term almost a day ahead. Its marks and its results end with it."""
    stolen, honest = FileSpool(tmp_path, "stolen"), FileSpool(tmp_path, "honest")
    ahead = structs.replace(ROUND, term=1000 * (10**9 + 23 * 3600))
    Life(stolen, []).works_on(ahead)
    assert [mark.term for mark in stolen.marks()] == [ahead.term]

    marks = honest.marks()
    life = Life(honest, honest.load("bob", SAMPLES), marks=HighWaterMarks(marks))
    assert marks == []
    life.hear(Beacon(run="run", term=ROUND.term, round=ROUND.round, open=True))
    assert life.outside.hellos == 1
    life.later(1.0)
    assert life.outside.sent[-1].term == ROUND.term, "the pending result is sent in the current term"
    life.hear(Accepted(run="run", term=ROUND.term, trainer="bob", round=ROUND.round))
    life.works_on(structs.replace(ROUND, round=ROUND.round + 1))
    assert life.order[-1] == f"send {ROUND.round + 1}"
    assert [mark.term for mark in honest.marks()] == [ROUND.term]


def test_term_of_a_key_replaced_by_a_reload_silences_no_run() -> None:
    spool = MemorySpool("stolen")
    life = Life(spool, [])
    life.works_on(structs.replace(ROUND, term=1000 * (10**9 + 23 * 3600)))
    new = NewKeys("tcp://127.0.0.1:5550", "honest", SumIdentity(b"federation", Identity.new("trainer", "bob")))
    life.trainer._spool, life.trainer._read_keys = spool, lambda: new
    life.trainer.reload()
    assert spool.key == "honest"
    life.hear(Beacon(run="run", term=ROUND.term, round=ROUND.round, open=True))
    life.later(1.0)
    assert life.outside.sent[-1].term == ROUND.term
    life.works_on(structs.replace(ROUND, round=ROUND.round + 1))
    assert life.order[-1] == f"send {ROUND.round + 1}"


def test_term_more_than_a_day_ahead_is_rejected(caplog: pytest.LogCaptureFixture) -> None:
    life = Life(MemorySpool(), [])
    for term in (2**53, 1000 * (10**9 + 25 * 3600)):
        life.hear(Beacon(run="run", term=term, round=0, open=False))
    life.works_on(ROUND)
    assert life.order[-1] == f"send {ROUND.round}"
    assert life.trainer.session.rejections == {"term": 2}
    assert "compare the clocks" in caplog.messages[0]


def test_ignored_lower_term_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    life = Life(MemorySpool(), [], marks=HighWaterMarks([HighWaterMark("run", 9, 1)]))
    for _ in range(100):
        life.later(0.25)
        life.hear(Beacon(run="run", term=3, round=5, open=True))
    (line,) = caplog.messages
    assert line.startswith("run run is ignored: its term 3 is lower than 9")
    assert life.outside.hellos == 0


def test_delayed_beacon_of_the_last_term_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    life = Life(MemorySpool(), [])
    for term in (4, 3, 4, 3):
        life.later(0.25)
        life.hear(Beacon(run="run", term=term, round=5, open=True))
    assert caplog.messages == []


def test_results_of_several_terms_restore_the_newest_state() -> None:
    kept = [result(round=9, term=1), result(round=7, term=2), result(round=8, term=2)]
    view = Session("bob", SAMPLES, "test", derive_rng(1, "jitter"), kept).runs["run"]
    assert (view.term, view.round, view.round_term, sorted(view.pending)) == (2, 8, 2, [7, 8, 9])


def test_corrupt_unacknowledged_result_is_computed_again(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    Life(spool, []).works_on(ROUND)
    (tmp_path / f"run.5{SUFFIX}").write_bytes(b"")
    second = Life(spool, spool.load("bob", SAMPLES), marks=HighWaterMarks(spool.marks()))
    second.works_on(ROUND)
    assert second.order == ["work 5", "keep 5", "send 5"]


def test_full_disk_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    life = Life(FileSpool(tmp_path), [])
    life.works_on(ROUND)
    life.hear(Accepted(run="run", term=3, trainer="bob", round=5))
    assert life.order == ["work 5", "keep 5", "send 5", "drop 5"]


def test_loaded_runs_and_results_over_the_limit_are_dropped() -> None:
    kept = [result(f"run-{number}") for number in range(2 * RUNS_MAX)]
    kept += [result("many", number) for number in range(1, PENDING_MAX + 4)]
    life = Life(MemorySpool(), kept)
    life.later(PENDING_SILENT_S)
    life.works_on(structs.replace(ROUND, run="one-more"))
    runs = life.trainer.session.runs
    assert len(runs) <= RUNS_MAX
    assert "one-more" in runs
    life = Life(MemorySpool(), kept[2 * RUNS_MAX :])
    life.works_on(structs.replace(ROUND, run="many", round=99))
    assert len(life.trainer.session.runs["many"].pending) == PENDING_MAX
