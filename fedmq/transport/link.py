"""The interface between services and the network: links of the edges and the hub of the broker.

Two implementations: `fedmq.transport.zeromq`, and `fedmq.simulation` in memory and on virtual time.
"""

from collections.abc import Collection, Iterator
from enum import IntEnum
from typing import NamedTuple, Protocol

import msgspec

from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames, Packet


class Delivered(NamedTuple):
    """A message was received."""

    frames: Frames


class LinkUp(msgspec.Struct, frozen=True):
    """The broker is connected: messages sent from now on reach it."""


class LinkDown(msgspec.Struct, frozen=True):
    """The broker is disconnected."""


class LinkRefused(msgspec.Struct, frozen=True):
    """The broker rejects this key, or connections without one."""


LinkEvent = Delivered | LinkUp | LinkDown | LinkRefused


class Link(Protocol):
    """The connection of an edge to the broker: an aggregator's, a trainer's or an observer's."""

    def receive(self) -> Iterator[LinkEvent]:
        """Yield a bounded number of events, oldest first, without waiting."""

    def send(self, frames: Frames) -> bool:
        """Hand `frames` to the network; return False if it accepts none now (no connection, or a full queue)."""


class Published(NamedTuple):
    """An aggregator published a message."""

    frames: Frames


class Pushed(NamedTuple):
    """A trainer pushed a message; `sender` is the authenticated name of its connection, "" without keys."""

    sender: str
    frames: Frames


class Subscribed(NamedTuple):
    """A subscription, which takes effect only if `Hub.allow` is called before the next event is received.

    `sender` is the authenticated name of the connection, None without keys.
    """

    topic: str
    sender: str | None = None


class Unsubscribed(NamedTuple):
    """A subscription ended, also by the end of its connection."""

    topic: str


class Listening(NamedTuple):
    """An aggregator subscribed to a topic of pushed messages."""

    topic: str


class EnrollmentRequest(NamedTuple):
    """An enrollment request; `key` is the transport key of its connection."""

    key: bytes
    frames: Frames


Routed = Published | Pushed | Subscribed | Unsubscribed | Listening
LinkMessage = Routed | EnrollmentRequest


class Hub(Protocol):
    """The broker's side of all connections."""

    def receive(self) -> Iterator[LinkMessage]:
        """Yield a bounded number of events without waiting."""

    def allow(self, topic: str) -> None:
        """Allow the subscription of the event that was just received."""

    def answer(self, frames: Frames) -> None:
        """Answer the `EnrollmentRequest` that was just received; lost if its connection has ended."""

    def disconnect(self, *, violation: bool) -> None:
        """Close the connection of the event that was just received, and block its key if that is a violation."""

    def disconnect_keys(self, keys: Collection[bytes]) -> None:
        """Close the connections of these transport keys, which are not accepted any more, and no others."""

    def publish(self, frames: Frames) -> None:
        """Send to every subscriber of the topic in the first frame. A message is lost where the queue is full."""

    def deliver(self, frames: Frames) -> None:
        """Send to every aggregator that listens to the topic in the first frame. Lost where the queue is full."""


class Port(IntEnum):
    """The broker's ports, as offsets from the first."""

    PUBLISH = 0
    SUBSCRIBE = 1
    PUSH = 2
    COLLECT = 3
    JOIN = 4  # only with keys

    __hash__ = int.__hash__  # called for each message; that of Enum is slow


class AccessControl(Protocol):
    """Decides which public transport key may use which port of the broker."""

    @property
    def secret(self) -> bytes:
        """The broker's secret transport key."""

    def allows(self, port: Port, key: bytes) -> bool:
        """Return whether a port accepts a new connection with this key. Called from another thread."""

    def sender(self, port: Port, key: bytes, size: int) -> str | None:
        """Return the sender of a message of `size` bytes; None if it may not use the port or exceeds its rate."""

    def connections_max(self, key: bytes) -> int | None:
        """Return how many connections of this key may be open; None: no limit."""

    def block(self, key: bytes) -> None:
        """Reject this key for a while: its connection was closed for a violation."""


# --- inputs of the state machines of aggregators and trainers: `fedmq.transport.receive` makes them of link events ---


class MessageReceived(NamedTuple):
    """A message that passed the decoder and the signature check."""

    packet: Packet
    fingerprint: str = ""  # of the key that signed it; "" without keys


class MessageRejected(NamedTuple):
    """Frames that failed the decoder or the signature check."""

    rejected: Rejected
    nbytes: int = 0


class BrokerConnected(NamedTuple):
    """The broker forwards messages from now on. It may be a new process with an empty state."""


class BrokerDisconnected(NamedTuple):
    """The connection to the broker is lost."""


class Tick(NamedTuple):
    """Time has passed and nothing else happened."""


class StopRequested(NamedTuple):
    """The process is asked to end."""


LinkInput = MessageReceived | MessageRejected | BrokerConnected | BrokerDisconnected
