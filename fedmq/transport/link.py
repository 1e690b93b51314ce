"""What a service sees of the network: links that hand over frames and news of connections.

Two implementations: `fedmq.transport.zeromq`, and `fedmq.simulation` in memory and on virtual time.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

import msgspec

from fedmq.protocol.codec import Frames


class Delivered(NamedTuple):
    """A message for this end."""

    frames: Frames


class LinkUp(msgspec.Struct, frozen=True):
    """The broker is there (again), and what is sent from now on reaches it."""


class LinkDown(msgspec.Struct, frozen=True):
    """The broker is gone."""


class LinkRefused(msgspec.Struct, frozen=True):
    """The broker does not let us in: not with this key, or not without one."""


LinkEvent = Delivered | LinkUp | LinkDown | LinkRefused


class Link(Protocol):
    """An edge's connection to the broker: an aggregator's or a trainer's."""

    def receive(self) -> Iterator[LinkEvent]:
        """What came since the last call, oldest first; never waits, and ends after a bounded number."""
        ...

    def send(self, frames: Frames) -> bool:
        """Hand `frames` to the network; False when it takes nothing now (no connection, or a full queue)."""
        ...


class Published(NamedTuple):
    """An aggregator published this."""

    frames: Frames


class Pushed(NamedTuple):
    """A trainer pushed this; `sender` is the name that the connection has authenticated, "" without keys."""

    sender: str
    frames: Frames


class Subscribed(NamedTuple):
    """A subscriber wants this topic; it gets it only if `admit` is called before the next event is taken.

    `sender` is the name that its connection has authenticated, None without keys.
    """

    topic: str
    sender: str | None = None


class Unsubscribed(NamedTuple):
    """A subscriber that had this topic wants it no more, or is gone."""

    topic: str


class Listening(NamedTuple):
    """An aggregator has subscribed to this topic of what trainers push."""

    topic: str


class EnrollmentRequest(NamedTuple):
    """Somebody who has no place yet asks for one; `key` is the transport key of its connection."""

    key: bytes
    frames: Frames


Routed = Published | Pushed | Subscribed | Unsubscribed | Listening
LinkMessage = Routed | EnrollmentRequest


class Hub(Protocol):
    """The broker's side: everything meets here."""

    def receive(self) -> Iterator[LinkMessage]:
        """What came since the last call, one at a time; never waits, and ends after a bounded number."""
        ...

    def allow(self, topic: str) -> None:
        """Let the subscriber of the event that was just received have `topic`."""
        ...

    def answer(self, frames: Frames) -> None:
        """Tell whoever sent the `Asked` that was just received. It is lost if the other end has gone."""
        ...

    def disconnect(self) -> None:
        """End the connection of the event that was just received: its other end does what nobody may."""
        ...

    def drop_connections(self) -> None:
        """Let go of every connection and listen anew: those who are still let in are back within a second."""
        ...

    def publish(self, frames: Frames) -> None:
        """Down to every subscriber of the first frame's topic. What does not fit in a queue is lost."""
        ...

    def deliver(self, frames: Frames) -> None:
        """Up to every aggregator that listens to the first frame's topic. What does not fit in a queue is lost."""
        ...


class Port(IntEnum):
    """The broker's ports, as offsets from the first; each lets in who has business there."""

    PUBLISH = 0
    SUBSCRIBE = 1
    PUSH = 2
    COLLECT = 3
    JOIN = 4  # only where there are keys

    __hash__ = int.__hash__  # asked for each message; an Enum's own is slow


class AccessControl(Protocol):
    """Who may use which of the broker's ports; keys are the public halves of transport keys."""

    @property
    def secret(self) -> bytes:
        """The broker's own secret transport key."""
        ...

    def allows(self, port: Port, key: bytes) -> bool:
        """Whether a new connection with this key is let in. Called from a thread of its own."""
        ...

    def sender(self, port: Port, key: bytes, size: int) -> str | None:
        """Whose message of `size` bytes it is; None if it may not use the port (any more), or has used it too much."""
        ...

    def block(self, key: bytes) -> None:
        """Its connection had to be cut: let it in again only after a while."""
        ...
