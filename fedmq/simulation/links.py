"""Links and hub in memory: what a node of a simulation holds instead of sockets.

Knows nothing of time or faults; the simulation carries what is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from fedmq.protocol.codec import Frames
from fedmq.transport.link import LinkEvent, LinkMessage


class Wire(Protocol):
    """What carries messages between links and hub: a simulation."""

    def operation(self, name: str) -> None: ...

    def send_up(self, connection: Connection, frames: Frames) -> None: ...

    def send_down(self, frames: Frames, *, to_aggregators: bool) -> None: ...


@dataclass
class Connection:
    """An edge's connection to one life of the broker."""

    link: MemoryLink
    topics: tuple[str, ...] = ()
    alive: bool = True
    arrived: dict[str, float] = field(default_factory=dict)  # when the last message of each direction arrives


class MemoryLink:
    """An edge's link in memory; see `network.Link`."""

    def __init__(self, wire: Wire, name: str, wants: tuple[str, ...], *, publishes: bool) -> None:
        self.name, self.wants, self.publishes = name, wants, publishes
        self.news: deque[LinkEvent] = deque()
        self.connection: Connection | None = None
        self._wire = wire

    def receive(self) -> Iterator[LinkEvent]:
        while self.news:
            yield self.news.popleft()

    def send(self, frames: Frames) -> bool:
        self._wire.operation(self.name)
        if self.connection is None:
            return False
        self._wire.send_up(self.connection, frames)
        return True


class MemoryHub:
    """The broker's hub in memory; see `network.Hub`."""

    def __init__(self, wire: Wire) -> None:
        self.traffic: deque[tuple[Connection, LinkMessage]] = deque()
        self._wire = wire
        self._current: Connection | None = None

    def receive(self) -> Iterator[LinkMessage]:
        while self.traffic:
            self._current, traffic = self.traffic.popleft()
            yield traffic

    def allow(self, topic: str) -> None:
        assert self._current is not None
        self._current.topics += (topic,)

    def answer(self, frames: Frames) -> None:
        """See `network.Hub`; nobody asks in memory."""

    def disconnect(self) -> None:
        """See `network.Hub`; nobody has keys in memory."""

    def drop_connections(self) -> None:
        """See `network.Hub`; nobody is revoked in memory."""

    def publish(self, frames: Frames) -> None:
        self._wire.send_down(frames, to_aggregators=False)

    def deliver(self, frames: Frames) -> None:
        self._wire.send_down(frames, to_aggregators=True)
