"""The trainer's worker on real threads, synchronized by events."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.errors import BadData, WorkCancelled
from fedmq.protocol.codec import Array, Packet, decode, encode
from fedmq.protocol.messages import Round
from fedmq.runtime.clock import SystemClock
from fedmq.tasks.task_file import find_task
from fedmq.testing import VirtualClock
from fedmq.trainer.worker import BLOCKED_S, Blocked, Cancelled, Done, Learn, Refreshed, ThreadWorker, Unblocked, perform

WAIT_S = 60.0


def round_packet(number: int) -> Packet:
    work = Train(GradientLearner())
    message = Round(
        run="run", term=1, round=number, seed=0, deadline_s=1.0, task=find_task("linear"), query=encode_query(work)
    )
    return decode(encode("round/run", message))


def number_of(packet: Packet) -> int:
    assert isinstance(packet.message, Round)
    return packet.message.round


def answer(packet: Packet) -> dict[str, Array]:
    return {"model": np.full(3, float(number_of(packet)))}


class Bench:
    """A worker whose work the test starts and ends."""

    def __init__(self, learn: Learn | None = None) -> None:
        self.began: dict[int, threading.Event] = {number: threading.Event() for number in range(1, 5)}
        self.may_end: dict[int, threading.Event] = {number: threading.Event() for number in range(1, 5)}
        self.woken = threading.Semaphore(0)
        self.cancelled_seen: dict[int, bool] = {}
        self.refreshed: list[bool] = []
        self.worker = ThreadWorker(learn or self.learn, self.woken.release, SystemClock())

    def learn(self, packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        number = number_of(packet)
        self.began[number].set()
        assert self.may_end[number].wait(WAIT_S)
        self.cancelled_seen[number] = cancelled()
        return answer(packet)

    def done(self) -> list[Done]:
        return [one for one in self.worker.done() if isinstance(one, Done)]

    def begin(self, number: int) -> None:
        self.worker.start(round_packet(number))
        assert self.began[number].wait(WAIT_S)

    def end(self, number: int) -> None:
        self.may_end[number].set()
        assert self.woken.acquire(timeout=WAIT_S)


def test_finished_work_wakes_the_loop_and_is_returned_once() -> None:
    bench = Bench()
    bench.begin(1)
    assert bench.worker.done() == []
    bench.end(1)
    (done,) = bench.done()
    assert (done.run, done.round) == ("run", 1)
    assert isinstance(done.outcome, dict)
    assert done.outcome["model"].tolist() == [1.0, 1.0, 1.0]
    assert 0.0 <= done.train_s < WAIT_S
    assert bench.worker.done() == []


def test_worker_does_not_block_the_loop() -> None:
    bench = Bench()
    bench.begin(1)
    bench.worker.start(round_packet(2))  # returns although the first has not ended
    bench.worker.cancel()
    assert not bench.may_end[1].is_set()


def test_newest_start_replaces_earlier_ones() -> None:
    bench = Bench()
    bench.begin(1)
    for number in (2, 3):
        bench.worker.start(round_packet(number))
    bench.end(1)
    assert bench.worker.done() == [], "it was cancelled by the second"
    bench.end(3)
    assert [done.round for done in bench.done()] == [3]
    assert not bench.began[2].is_set(), "the second was cancelled before it began"
    assert bench.cancelled_seen == {1: True, 3: False}


def test_cancelled_work_that_ignores_it_has_no_outcome() -> None:
    bench = Bench()
    bench.begin(1)
    bench.worker.cancel()
    bench.end(1)
    assert bench.worker.done() == []


def test_work_cancelled_at_its_end_has_no_outcome() -> None:
    bench = Bench()
    bench.begin(1)
    bench.end(1)
    bench.worker.cancel()
    assert bench.worker.done() == []


def test_cancelled_work_does_not_wake_and_the_next_is_done() -> None:
    bench = Bench(lambda packet, cancelled: noticing(bench, packet, cancelled))
    bench.begin(1)
    bench.worker.start(round_packet(2))
    bench.may_end[1].set()
    bench.end(2)
    assert [done.round for done in bench.done()] == [2]
    assert not bench.woken.acquire(blocking=False), "only one of the two had something to hand over"


def test_cancelled_work_that_does_not_end_is_reported_once_and_so_is_its_end() -> None:
    bench, clock = Bench(), VirtualClock()
    bench.worker = ThreadWorker(bench.learn, bench.woken.release, clock, work_seconds_max=20.0)
    bench.begin(1)
    clock.move_to(100.0)
    assert bench.worker.done() == [], "it is not cancelled"
    bench.worker.start(round_packet(2))
    assert bench.worker.done() == [Blocked("run", 1)]
    bench.worker.cancel()
    assert bench.worker.done() == []
    bench.end(1)
    assert bench.worker.done() == [Unblocked()]


def test_cancelled_work_may_take_its_time_and_a_little_more_to_end() -> None:
    bench, clock = Bench(), VirtualClock()
    bench.worker = ThreadWorker(bench.learn, bench.woken.release, clock, work_seconds_max=20.0)
    bench.begin(1)
    bench.worker.cancel()
    clock.move_to(20.0 + BLOCKED_S)
    assert bench.worker.done() == []
    bench.may_end[1].set()


def noticing(bench: Bench, packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
    result = bench.learn(packet, cancelled)
    if cancelled():
        raise WorkCancelled("a newer round came")
    return result


def test_exception_is_an_outcome_and_the_worker_continues() -> None:
    bench = Bench(failing_in_round_one)
    bench.worker.start(round_packet(1))
    assert bench.woken.acquire(timeout=WAIT_S)
    (done,) = bench.done()
    assert isinstance(done.outcome, BadData)
    bench.worker.start(round_packet(2))
    assert bench.woken.acquire(timeout=WAIT_S)
    assert [done.round for done in bench.done()] == [2]


def failing_in_round_one(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
    if number_of(packet) == 1:
        raise BadData("expected 2 columns, got 3")
    return answer(packet)


def test_exit_in_the_work_is_an_outcome_and_the_worker_continues() -> None:
    bench = Bench(exiting_in_round_one)
    for number, kind in ((1, SystemExit), (2, dict)):
        bench.worker.start(round_packet(number))
        assert bench.woken.acquire(timeout=WAIT_S)
        (done,) = bench.worker.done()
        assert isinstance(done, Done)
        assert isinstance(done.outcome, kind)


def exiting_in_round_one(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
    if number_of(packet) == 1:
        raise SystemExit(78)
    return answer(packet)


@pytest.mark.parametrize("outcome", [7, BadData("no such file")])
def test_rows_are_read_again_after_the_current_work(outcome: int | BadData) -> None:
    bench = Bench()

    def refresh() -> int:
        bench.refreshed.append(bench.may_end[1].is_set())
        if isinstance(outcome, BadData):
            raise outcome
        return outcome

    bench.worker = ThreadWorker(bench.learn, bench.woken.release, SystemClock(), refresh)
    bench.begin(1)
    bench.worker.refresh()
    bench.end(1)
    assert bench.woken.acquire(timeout=WAIT_S)
    done, refreshed = bench.worker.done()
    assert isinstance(done, Done)
    assert refreshed == Refreshed(outcome)
    assert bench.refreshed == [True]


def never() -> bool:
    return False


def timed(clock: VirtualClock, to: float) -> Callable[[Packet, Cancelled], dict[str, Array]]:
    def learn(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        clock.move_to(to)
        return answer(packet)

    return learn


def test_duration_of_work_is_measured_on_the_clock() -> None:
    clock = VirtualClock()
    clock.move_to(5.0)
    done = perform(round_packet(1), timed(clock, 7.5), never, clock)
    assert done is not None
    assert done.train_s == 2.5
