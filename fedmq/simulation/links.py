"""Links and hub in memory: what the services of a simulation use instead of sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from fedmq.protocol.codec import Frames
from fedmq.transport.link import LinkEvent, LinkMessage


class Carrier(Protocol):
    """Carries messages between links and hub: a simulation."""

    def operation(self, name: str) -> None: ...

    def send_up(self, connection: MemoryConnection, frames: Frames) -> None: ...

    def send_down(self, frames: Frames, *, to_aggregators: bool) -> None: ...


@dataclass
class MemoryConnection:
    """An edge's connection to one start of the broker."""

    link: MemoryLink
    topics: tuple[str, ...] = ()
    alive: bool = True
    arrived: dict[str, float] = field(default_factory=dict)  # arrival time of the last message, by direction


class MemoryLink:
    """An edge's link in memory."""

    def __init__(self, carrier: Carrier, name: str, wants: tuple[str, ...], *, publishes: bool) -> None:
        self.name, self.wants, self.publishes = name, wants, publishes
        self.events: deque[LinkEvent] = deque()
        self.connection: MemoryConnection | None = None
        self._carrier = carrier

    def receive(self) -> Iterator[LinkEvent]:
        while self.events:
            yield self.events.popleft()

    def send(self, frames: Frames) -> bool:
        self._carrier.operation(self.name)
        if self.connection is None:
            return False
        self._carrier.send_up(self.connection, frames)
        return True


class MemoryHub:
    """The broker's hub in memory."""

    def __init__(self, carrier: Carrier) -> None:
        self.inbox: deque[tuple[MemoryConnection, LinkMessage]] = deque()
        self._carrier = carrier
        self._current: MemoryConnection | None = None

    def receive(self) -> Iterator[LinkMessage]:
        while self.inbox:
            self._current, message = self.inbox.popleft()
            yield message

    def allow(self, topic: str) -> None:
        assert self._current is not None
        self._current.topics += (topic,)

    def answer(self, frames: Frames) -> None:
        """See `Hub`; there is no enrollment in memory."""

    def disconnect(self) -> None:
        """See `Hub`; there are no keys in memory."""

    def drop_connections(self) -> None:
        """See `Hub`; there are no keys in memory."""

    def publish(self, frames: Frames) -> None:
        self._carrier.send_down(frames, to_aggregators=False)

    def deliver(self, frames: Frames) -> None:
        self._carrier.send_down(frames, to_aggregators=True)
