"""What a service sees of the network: links that hand over frames and news of connections.

Two implementations: `fedmq.sockets` (ZeroMQ) and `fedmq.testing` (in memory, on virtual time). Knows nothing of
either, nor of what the frames hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from fedmq.wire import Frames


class Delivered(NamedTuple):
    """A message for this end."""

    frames: Frames


class LinkUp(msgspec.Struct, frozen=True):
    """The broker is there (again), and what is sent from now on reaches it."""


class LinkDown(msgspec.Struct, frozen=True):
    """The broker is gone."""


News = Delivered | LinkUp | LinkDown


class Link(Protocol):
    """An edge's connection to the broker: an aggregator's or a trainer's."""

    def receive(self) -> Iterator[News]:
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
    """A subscriber wants this topic; it gets it only if `admit` is called before the next event is taken."""

    topic: str


class Unsubscribed(NamedTuple):
    """A subscriber that had this topic wants it no more, or is gone."""

    topic: str


class Listening(NamedTuple):
    """An aggregator has subscribed to this topic of what trainers push."""

    topic: str


Traffic = Published | Pushed | Subscribed | Unsubscribed | Listening


class Hub(Protocol):
    """The broker's side: everything meets here."""

    def receive(self) -> Iterator[Traffic]:
        """What came since the last call, one at a time; never waits, and ends after a bounded number."""
        ...

    def admit(self, topic: str) -> None:
        """Let the subscriber of the event that was just received have `topic`."""
        ...

    def publish(self, frames: Frames) -> None:
        """Down to every subscriber of the first frame's topic. What does not fit in a queue is lost."""
        ...

    def deliver(self, frames: Frames) -> None:
        """Up to every aggregator that listens to the first frame's topic. What does not fit in a queue is lost."""
        ...
