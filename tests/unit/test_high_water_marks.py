"""High-water marks: what a trainer ignores as old, also after a restart and without a clock."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest
from msgspec import structs

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Accepted, Round
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task_file import find_task
from fedmq.trainer.budget import Spent
from fedmq.trainer.followed_run import SILENT_S
from fedmq.trainer.high_water_marks import RUNS_REMEMBERED, HighWaterMark, HighWaterMarks
from fedmq.trainer.machine import Output, WorkDone
from fedmq.trainer.session import RUNS_MAX, Session
from fedmq.trainer.spool import SEEN_SUFFIX, SPENT_SUFFIX, FileSpool
from fedmq.transport.link import BrokerConnected, MessageReceived

ROUND = Round(
    run="run",
    term=3,
    round=5,
    seed=0,
    deadline_s=9.0,
    task=find_task("linear"),
    query=encode_query(Train(GradientLearner())),
)


def session(marks: HighWaterMarks | None = None) -> Session:
    bob = Session("bob", 2, "test", derive_rng(1, "jitter"), marks=marks)
    bob.step(BrokerConnected(), 0.0)
    return bob


def hear(bob: Session, *, run: str = "run", term: int = 3, round: int = 5, at: float = 1.0) -> Output:
    message = structs.replace(ROUND, run=run, term=term, round=round)
    return bob.step(MessageReceived(decode(encode(f"round/{run}", message, {"model": np.zeros(3)}))), at)


def work(bob: Session, round: int = 5) -> Output:
    arrays = {"model": np.zeros(3), "losses": np.zeros(1), "correct": np.zeros(1, np.int64)}
    return bob.step(WorkDone("run", round, arrays, 0.1, 2), 2.0)


def accept(bob: Session, round: int = 5) -> Output:
    accepted = Accepted(run="run", term=3, trainer="bob", round=round)
    return bob.step(MessageReceived(decode(encode("to/bob/", accepted))), 2.0)


def marks_of(*effects: Output) -> list[HighWaterMark]:
    return [mark for one in effects for mark in one.marks]


def test_marks_only_rise_and_each_rise_is_stored() -> None:
    seen = HighWaterMarks()
    assert seen.of("run") == HighWaterMark("run", 0, 0)
    assert seen.reached("run", 1) == [HighWaterMark("run", 1, 0)]
    assert seen.reached("run", 1, 4) == [HighWaterMark("run", 1, 4)]
    assert seen.reached("run", 1, 4) == seen.reached("run", 1, 3) == seen.reached("run", 0, 9) == []
    assert seen.reached("run", 2) == [HighWaterMark("run", 2, 0)], "a new term may start at a lower round"


def test_least_recently_changed_run_is_dropped_first() -> None:
    seen = HighWaterMarks([HighWaterMark(f"run-{number}", 1, 1) for number in range(RUNS_REMEMBERED)])
    seen.reached("run-0", 1, 2)
    assert seen.reached("one-more", 1) == [HighWaterMark("one-more", 1, 0), HighWaterMark("run-1", 0, 0)]
    assert seen.of("run-0") == HighWaterMark("run-0", 1, 2)


def test_term_is_stored_at_once_and_round_when_acknowledged() -> None:
    bob = session()
    assert marks_of(hear(bob)) == [HighWaterMark("run", 3, 0)], (
        "a killed trainer must be able to work on the round again"
    )
    assert marks_of(work(bob)) == [], "also if its result is lost before it is acknowledged"
    assert marks_of(accept(bob)) == [HighWaterMark("run", 3, 5)]


@pytest.mark.parametrize(
    ("term", "round", "works"), [(3, 5, False), (3, 4, False), (2, 9, False), (3, 6, True), (4, 1, True)]
)
def test_restarted_trainer_works_only_on_newer_rounds(term: int, round: int, works: bool) -> None:
    bob = session(HighWaterMarks([HighWaterMark("run", 3, 5)]))
    assert (hear(bob, term=term, round=round).start is not None) is works


def test_mark_of_a_replaced_run_is_kept() -> None:
    bob = session()
    hear(bob)
    work(bob)
    accept(bob)
    for number in range(RUNS_MAX):
        hear(bob, run=f"other-{number}", at=2.0 + SILENT_S)
    assert "run" not in bob.runs
    for number in (4, 5):
        hear(bob, round=number, at=3.0 + 2 * SILENT_S)
        assert bob.runs["run"].round == 5
        assert "run" not in bob._next


def test_marks_survive_in_files_without_corrupt_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = FileSpool(tmp_path)
    for mark in (
        HighWaterMark("a", 1, 0),
        HighWaterMark("b", 2, 7),
        HighWaterMark("a", 1, 3),
        HighWaterMark("c", 9, 9),
    ):
        spool.mark(mark)
    spool.mark(HighWaterMark("c", 0, 0))
    assert sorted(FileSpool(tmp_path).marks()) == [HighWaterMark("a", 1, 3), HighWaterMark("b", 2, 7)]
    path = tmp_path / f"b{SEEN_SUFFIX}"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-1], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:]):
        path.write_bytes(damaged)
        caplog.clear()
        assert FileSpool(tmp_path).marks() == [HighWaterMark("a", 1, 3)]
        assert len(caplog.messages) == 1


def test_mark_of_another_key_is_deleted_and_one_of_an_earlier_version_counts(tmp_path: Path) -> None:
    FileSpool(tmp_path, "old").mark(HighWaterMark("a", 9, 9))
    FileSpool(tmp_path, "new").mark(HighWaterMark("b", 2, 7))
    content = msgspec.msgpack.encode((4, 1))
    (tmp_path / f"c{SEEN_SUFFIX}").write_bytes(sha256(content).digest() + content)
    assert sorted(FileSpool(tmp_path, "new").marks()) == [HighWaterMark("b", 2, 7), HighWaterMark("c", 4, 1)]
    assert not (tmp_path / f"a{SEEN_SUFFIX}").exists()


def test_least_recently_changed_files_are_loaded_first(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path)
    for age, run in enumerate("abc"):
        spool.spend(Spent(run, 1))
        spool.mark(HighWaterMark(run, 1, 1))
        for suffix in (SPENT_SUFFIX, SEEN_SUFFIX):
            os.utime(tmp_path / f"{run}{suffix}", (0, 1000 - age))
    assert [one.run for one in spool.spent()] == [one.run for one in spool.marks()] == ["c", "b", "a"]
