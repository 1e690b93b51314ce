"""The worker: does the work of a round on its own thread, so that the network loop never waits.

A newer round cancels the work at its next check.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import NamedTuple, Protocol

from fedmq.errors import BadData, WorkCancelled
from fedmq.protocol.codec import Array, Packet
from fedmq.protocol.messages import Round
from fedmq.runtime.clock import Clock

Cancelled = Callable[[], bool]
Learn = Callable[[Packet, Cancelled], dict[str, Array]]


class Answer(dict[str, Array]):
    """The arrays of an answer, and the number of rows that they are computed on."""

    def __init__(self, arrays: Mapping[str, Array], num_examples: int) -> None:
        super().__init__(arrays)
        self.num_examples = num_examples


class Done(NamedTuple):
    """The outcome of a round's work: arrays, or the error that ended it."""

    run: str
    round: int
    outcome: dict[str, Array] | BaseException
    train_s: float


class Refreshed(NamedTuple):
    """The outcome of a refresh: the number of rows, or the error that prevented it."""

    outcome: int | BadData


class Worker(Protocol):
    """Does the work of one round at a time."""

    def start(self, packet: Packet) -> None:
        """Start the work of a round; cancel the previous one."""

    def cancel(self) -> None:
        """Cancel the current work; it will have no outcome."""

    def refresh(self) -> None:
        """Read the rows again, after the current work."""

    def done(self) -> Sequence[Done | Refreshed]:
        """Return what was finished since the last call."""


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
    `refresh` reads the rows again and returns their number.
    """

    def __init__(
        self, learn: Learn, wake: Callable[[], None], clock: Clock, refresh: Callable[[], int] | None = None
    ) -> None:
        self._learn, self._wake, self._clock, self._refresh = learn, wake, clock, refresh
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

    def done(self) -> list[Done | Refreshed]:
        found: list[Done | Refreshed] = []
        while self._done:
            one = self._done.popleft()
            if isinstance(one, Refreshed):
                found.append(one)
            elif one[0] == self._current:
                found.append(one[1])
        return found

    def _run(self) -> None:
        while True:
            job, packet = self._inbox.get()
            if packet is None:
                self._done.append(self._refreshed())
                self._wake()
                continue
            if job != self._current:
                continue
            done = perform(packet, self._learn, lambda job=job: job != self._current, self._clock)  # type: ignore[misc]
            if done is not None:
                self._done.append((job, done))
                self._wake()

    def _refreshed(self) -> Refreshed:
        assert self._refresh is not None
        try:
            return Refreshed(self._refresh())
        except BadData as error:
            return Refreshed(error)
