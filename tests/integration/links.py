"""Links to a broker in a thread, with deadlines, for tests of real sockets."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from fedmq.broker.service import Broker
from fedmq.protocol import topics
from fedmq.protocol.codec import decode
from fedmq.protocol.messages import Presence
from fedmq.runtime.clock import SystemClock
from fedmq.transport.link import Delivered, LinkEvent
from fedmq.transport.zeromq import AggregatorSockets, BrokerSockets, TrainerSockets

DEADLINE_S = 60.0


@contextmanager
def running_broker(port: int) -> Iterator[Broker]:
    """Run a broker in a thread: wait, then step."""
    hub = BrokerSockets("127.0.0.1", port)
    broker = Broker(hub, SystemClock())
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not broker.done:
                hub.wait(1.0 if broker.wake_at is None else 0.0)
                broker.step()
        except BaseException as failure:
            failures.append(failure)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield broker
    finally:
        broker.stop()
        hub.wake()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        hub.close()
        assert not failures


class Edge:
    """A link and its events that are not read yet."""

    def __init__(self, link: TrainerSockets | AggregatorSockets) -> None:
        self.link = link
        self._waiting: deque[LinkEvent] = deque()
        self._present: dict[str, bool] = {}

    def hear(self) -> LinkEvent:
        """Return the next event before the deadline."""
        stop_at = time.monotonic() + DEADLINE_S
        while not self._waiting:
            assert time.monotonic() < stop_at, "nothing more came"
            self.link.wait(0.1)
            self._waiting += self.link.receive()
        return self._waiting.popleft()

    def until(self, wanted: LinkEvent) -> list[LinkEvent]:
        """Return the events up to and including `wanted`."""
        news: list[LinkEvent] = []
        while not news or type(news[-1]) is not type(wanted) or news[-1] != wanted:
            news.append(self.hear())
        return news

    def messages(self, last: Delivered) -> list[LinkEvent]:
        """Return the messages up to and including `last`, without connection events and presence."""
        return [one for one in self.until(last) if isinstance(one, Delivered) and not _is_presence(one)]

    def presence(self, count: int) -> list[tuple[str, bool]]:
        """Return the next `count` changes of presence, in order.

        The broker may repeat them: all aggregators receive what it sends to a new one.
        """
        said: list[tuple[str, bool]] = []
        while len(said) < count:
            news = self.hear()
            message = decode(news.frames).message if isinstance(news, Delivered) and _is_presence(news) else None
            if isinstance(message, Presence) and self._present.get(message.trainer) is not message.present:
                self._present[message.trainer] = message.present
                said.append((message.trainer, message.present))
        return said

    def send(self, *frames: bytes) -> None:
        """Send as soon as the link accepts it."""
        stop_at = time.monotonic() + DEADLINE_S
        while not self.link.send(frames):
            assert time.monotonic() < stop_at, "there is no connection"
            self.link.wait(0.02)
            self._waiting += self.link.receive()

    def send_until(self, other: Edge, wanted: LinkEvent, *frames: bytes) -> None:
        """Send repeatedly until the other edge has received it."""
        stop_at = time.monotonic() + DEADLINE_S
        heard: list[LinkEvent] = []
        while wanted not in heard:
            assert time.monotonic() < stop_at, "it never passed"
            self._waiting += self.link.receive()
            self.link.send(frames)
            other.link.wait(0.05)
            heard += other.link.receive()


def _is_presence(news: Delivered) -> bool:
    return news.frames[0].startswith(topics.PRESENCE.encode())


@contextmanager
def trainer(address: str, name: str = "alice") -> Iterator[Edge]:
    """Yield a trainer's link; close it at the end."""
    link = TrainerSockets(address, name)
    link.wait(0)  # opens the sockets
    try:
        yield Edge(link)
    finally:
        link.close()


@contextmanager
def aggregator(address: str, run: str = "r") -> Iterator[Edge]:
    """Yield an aggregator's link; close it at the end."""
    link = AggregatorSockets(address, run)
    link.wait(0)  # opens the sockets
    try:
        yield Edge(link)
    finally:
        link.close()


def says(topic: str, *frames: bytes) -> Delivered:
    """Return a delivered message."""
    return Delivered([topic.encode(), *frames])
