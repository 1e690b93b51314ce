"""The worker: does the work of a round on its own thread, so that the network loop never waits.

A newer round cancels the work at its next check. A thread cannot be killed: work that never checks blocks the worker.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from fedmq.errors import BadData, WorkCancelled
from fedmq.protocol.codec import Array, Packet
from fedmq.protocol.messages import Round
from fedmq.runtime.clock import Clock

BLOCKED_S = 5.0  # beyond its time, then cancelled work blocks the worker

Cancelled = Callable[[], bool]
Learn = Callable[[Packet, Cancelled], dict[str, Array]]


class Answer(dict[str, Array]):
    """The arrays of an answer, the number of rows that they are computed on, and metrics of the trainer's own code."""

    def __init__(
        self, arrays: Mapping[str, Array], num_examples: int, metrics: Mapping[str, float] | None = None
    ) -> None:
        super().__init__(arrays)
        self.num_examples = num_examples
        self.metrics = dict(metrics or {})


class Done(NamedTuple):
    """The outcome of a round's work: arrays, or the error that ended it."""

    run: str
    round: int
    outcome: dict[str, Array] | BaseException
    train_s: float


class Refreshed(NamedTuple):
    """The outcome of a refresh: the number of rows, or the error that prevented it."""

    outcome: int | BadData


class Blocked(NamedTuple):
    """The worker can do nothing, because the work of this round does not end although it was cancelled."""

    run: str
    round: int


class Unblocked(NamedTuple):
    """The work that blocked the worker has ended."""


class _Job(NamedTuple):
    """What the thread works on, and since when."""

    number: int
    message: Round
    began: float


Outcome = Done | Refreshed | Blocked | Unblocked


class Worker(Protocol):
    """Does the work of one round at a time."""

    def start(self, packet: Packet) -> None:
        """Start the work of a round; cancel the previous one."""

    def cancel(self) -> None:
        """Cancel the current work; it will have no outcome."""

    def refresh(self) -> None:
        """Read the rows again, after the current work."""

    def done(self) -> Sequence[Outcome]:
        """Return what was finished since the last call, and whether work blocks the worker."""


def perform(packet: Packet, learn: Learn, cancelled: Cancelled, clock: Clock) -> Done | None:
    """Do the work of a round; return None if it was cancelled."""
    message = packet.message
    assert isinstance(message, Round)
    began = clock.now()
    outcome: dict[str, Array] | BaseException
    try:
        outcome = learn(packet, cancelled)
    except WorkCancelled:
        return None
    except BaseException as error:  # noqa: BLE001  SystemExit too: the session decides about the error
        outcome = error
    return Done(message.run, message.round, outcome, max(0.0, clock.now() - began))


class ThreadWorker:
    """A worker on a thread; it calls `wake` from that thread after each piece of work.

    Call its methods from one thread only. Cancelled work has no outcome, even if it ended at that very moment.
    `refresh` reads the rows again and returns their number. Cancelled work is reported as `Blocked` once it has taken
    BLOCKED_S more than `work_seconds_max`, and as `Unblocked` when it ends.
    """

    def __init__(
        self,
        learn: Learn,
        wake: Callable[[], None],
        clock: Clock,
        refresh: Callable[[], int] | None = None,
        work_seconds_max: float = math.inf,
    ) -> None:
        self._learn, self._wake, self._clock, self._refresh = learn, wake, clock, refresh
        self._blocked_after_s = work_seconds_max + BLOCKED_S
        self._job: _Job | None = None  # of the thread, which alone changes it
        self._is_blocked = False
        self._inbox: SimpleQueue[tuple[int, Packet | None]] = SimpleQueue()  # None: refresh
        self._done: deque[tuple[int, Done] | Refreshed] = deque()
        self._current = 0  # any other job is cancelled
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def start(self, packet: Packet) -> None:
        self._current += 1
        self._inbox.put((self._current, packet))

    def cancel(self) -> None:
        self._current += 1

    def refresh(self) -> None:
        if self._refresh is not None:
            self._inbox.put((self._current, None))

    def done(self) -> list[Outcome]:
        found: list[Outcome] = []
        while self._done:
            one = self._done.popleft()
            if isinstance(one, Refreshed):
                found.append(one)
            elif one[0] == self._current:
                found.append(one[1])
        job = self._job
        was_blocked, self._is_blocked = self._is_blocked, job is not None and self._is_blocking(job)
        if self._is_blocked and not was_blocked:
            assert job is not None
            found.append(Blocked(job.message.run, job.message.round))
        elif was_blocked and not self._is_blocked:
            found.append(Unblocked())
        return found

    def _is_blocking(self, job: _Job) -> bool:
        return job.number != self._current and self._clock.now() - job.began > self._blocked_after_s

    def _run(self) -> None:
        while True:
            job, packet = self._inbox.get()
            if packet is None:
                self._done.append(self._refreshed())
                self._wake()
                continue
            if job != self._current:
                continue
            assert isinstance(packet.message, Round)
            self._job = _Job(job, packet.message, self._clock.now())
            done = perform(packet, self._learn, lambda job=job: job != self._current, self._clock)  # type: ignore[misc]
            self._job = None
            if done is not None:
                self._done.append((job, done))
            if done is not None or self._is_blocked:
                self._wake()

    def _refreshed(self) -> Refreshed:
        assert self._refresh is not None
        try:
            return Refreshed(self._refresh())
        except BadData as error:
            return Refreshed(error)
