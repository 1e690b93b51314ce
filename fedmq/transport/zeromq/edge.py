"""The edges' links as ZeroMQ sockets; they connect to a broker's address.

With keys, every connection is encrypted to the broker whose key is pinned (CURVE).

libzmq aborts the process when a full queue is read whose connection was replaced (4.3.5, stream_engine_base.cpp,
`_input_stopped`), and a connection whose queue stays full misses its heartbeats and is replaced. So sockets are open
only while their thread reads them: they are made by the first `wait` or `receive`, and made anew after a long pause.
What has arrived is moved out of libzmq's queue also while the events of one `receive` are being processed.

A refused key may be accepted later, but libzmq never retries after a refusal: the sockets are made anew for that, too.
To disconnect one instead may abort the process: a poll of a SUB takes the first frame of a message out of the queue,
and the next read finds no other frame (fq.cpp, `!_more`).
"""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from fedmq.protocol import topics
from fedmq.protocol.codec import Frames
from fedmq.runtime.descriptors import require_descriptors
from fedmq.transport.address import parse_address
from fedmq.transport.link import Delivered, LinkDown, LinkEvent, LinkRefused, LinkUp, Port
from fedmq.transport.zeromq.endpoint import (
    BATCH,
    HEARTBEAT_TIMEOUT_MS,
    QUEUE_MESSAGES_MAX,
    Endpoint,
    receive_all,
    try_send,
)

if TYPE_CHECKING:
    from fedmq.security.keyring import Credentials

REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
REFUSED_AGAIN_S = 1.0  # between attempts: each costs the broker a handshake
MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | REFUSED
AWAY_S = HEARTBEAT_TIMEOUT_MS / 2000  # without a read; after it the sockets are made anew
READ_AGAIN_S = 0.5  # between reads while the events of one `receive` are processed

log = logging.getLogger(__name__)


class TransportKeys(NamedTuple):
    """The keys of a connection: an own key pair, and the broker's public key."""

    public: bytes
    secret: bytes
    broker: bytes


def keys_of(credentials: Credentials | None) -> TransportKeys | None:
    """Return the transport keys of a member; None without credentials."""
    if credentials is None:
        return None
    identity = credentials.identity
    return TransportKeys(identity.public.transport, identity.transport_secret, credentials.federation.broker_key)


class EdgeSockets(Endpoint):
    """Base of the edges' links: receives from `_down`, sends to `_up`; without `_up` it sends nothing.

    When the sockets are made anew, messages are lost. The edges repeat them as after a restart of the broker.
    """

    _down: zmq.Socket[bytes]
    _up: zmq.Socket[bytes] | None = None

    def __init__(self, address: str, keys: TransportKeys | None) -> None:
        self.host, self.port = parse_address(address)
        self._keys = keys
        self._read_at: float | None = None  # None: the sockets are not made yet
        self._is_up = False  # by the events that were yielded
        self._was_cut = False  # the sockets were made anew while it was up
        self._unread: deque[Frames] = deque()
        super().__init__()

    def _open(self) -> None:
        super()._open()
        self._monitors: list[zmq.Socket[bytes]] = []
        self._reconnect_at: float | None = None  # after a refusal

    @abstractmethod
    def _make_sockets(self) -> None:
        """Make `_down` and `_up`, and connect them."""
        raise NotImplementedError

    def _attend(self) -> None:
        """Make the sockets, or make them anew after a refusal, or if this thread has not read them for AWAY_S."""
        now = time.monotonic()
        last, self._read_at = self._read_at, now
        if last is not None:
            refused = self._reconnect_at is not None and now >= self._reconnect_at
            if not refused and now - last <= AWAY_S:
                return
            if not refused:
                log.warning("this process received nothing for %.1f s: it connects to the broker again", now - last)
            self._cut()
        self._make_sockets()

    def move(self, address: str, keys: TransportKeys | None) -> None:
        """Connect to this broker with these keys; if they are the same, nothing changes."""
        host, port = parse_address(address)
        if (host, port, keys) == (self.host, self.port, self._keys):
            return
        self.host, self.port, self._keys = host, port, keys
        if self._read_at is not None:
            self._read_at = None  # the next read makes the sockets
            self._cut()

    def _cut(self) -> None:
        self._was_cut, self._is_up = self._was_cut or self._is_up, False
        self._close_sockets()
        require_descriptors(self.descriptors)
        self._open()

    def _connect(self, socket: zmq.Socket[bytes], port: Port, events: int) -> None:
        """Connect, and monitor these events of the connection."""
        self._monitors.append(self._monitor(socket, events))
        if self._keys is not None:
            socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = self._keys
        socket.connect(f"tcp://{self.host}:{self.port + port}")

    def wait(self, timeout_s: float | None) -> None:
        """See `Endpoint`; ends when a reconnection is due, and at once if received messages are left."""
        self._attend()
        if self._unread:
            timeout_s = 0.0
        elif self._reconnect_at is not None:
            pause_s = max(0.0, self._reconnect_at - time.monotonic())
            timeout_s = pause_s if timeout_s is None else min(timeout_s, pause_s)
        super().wait(timeout_s)
        self._read_at = time.monotonic()  # nothing has waited in a queue before

    def _subscribe(self, *prefixes: str) -> None:
        """Make `_down` a socket that receives what is published under these prefixes."""
        self._down = self._socket(zmq.SUB)
        self._down.linger = 0  # it sends nothing but subscriptions
        for prefix in prefixes:
            self._down.subscribe(prefix)
        self._poller.register(self._down, zmq.POLLIN)

    def receive(self) -> Iterator[LinkEvent]:
        self._attend()
        if self._was_cut:
            self._was_cut = False
            yield LinkDown()
        ready = self._ready()
        for event in self._connection_events(ready):
            self._is_up = isinstance(event, LinkUp)
            yield event
        if self._down in ready:
            self._read()
        for _ in range(BATCH):
            if not self._unread:
                return
            yield Delivered(self._unread.popleft())
            if self._read_at is None or time.monotonic() - self._read_at > READ_AGAIN_S:
                self._read()

    def _read(self) -> None:
        """Move all messages out of libzmq's queue; more than QUEUE_MESSAGES_MAX are lost, as in a queue of libzmq.

        After a long pause it reads nothing: `_attend` makes the sockets anew first.
        """
        now = time.monotonic()
        if self._read_at is None or now - self._read_at > AWAY_S:
            return
        self._read_at = now
        lost = 0
        for frames in receive_all(self._down, QUEUE_MESSAGES_MAX):
            if len(self._unread) < QUEUE_MESSAGES_MAX:
                self._unread.append(frames)
            else:
                lost += 1
        if lost:
            log.warning("%s messages are lost: they arrive faster than this process handles them", lost)

    def send(self, frames: Frames) -> bool:
        return self._up is not None and try_send(self._up, frames)

    def _connection_events(self, ready: list[zmq.Socket[bytes]]) -> Iterator[LinkEvent]:
        """Yield what the monitors report."""
        for monitor in self._monitors:
            if monitor in ready:
                yield from self._link_events(monitor)

    def _link_events(self, monitor: zmq.Socket[bytes]) -> Iterator[LinkEvent]:
        """Yield what one monitor reports."""
        for frames in receive_all(monitor):
            yield self._link_event(parse_monitor_message(frames)["event"])

    def _link_event(self, event: int) -> LinkEvent:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return LinkUp()
        if not event & REFUSED:
            return LinkDown()
        self._reconnect_at = self._reconnect_at or time.monotonic() + REFUSED_AGAIN_S
        return LinkRefused()


class SubscriberSockets(EdgeSockets):
    """A link that subscribes to topics (SUB) and pushes messages (PUSH, only over an established connection)."""

    def __init__(self, address: str, *subscriptions: str, credentials: Credentials | None = None) -> None:
        self._subscriptions = subscriptions
        super().__init__(address, keys_of(credentials))

    def _make_sockets(self) -> None:
        self._subscribe(*self._subscriptions)
        self._up = self._socket(zmq.PUSH)
        self._up.immediate = True
        self._connect(self._up, Port.PUSH, REFUSED | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        self._connect(self._down, Port.SUBSCRIBE, MONITORED)
        self._push_monitor = self._monitors[0]

    def _link_events(self, monitor: zmq.Socket[bytes]) -> Iterator[LinkEvent]:
        for event in super()._link_events(monitor):
            if monitor is self._push_monitor and isinstance(event, LinkUp):
                self.send([topics.HERE.encode()])
            else:
                yield event


class TrainerSockets(SubscriberSockets):
    """A trainer's link: what runs publish, and its inbox, which makes it present."""

    def __init__(self, address: str, name: str, credentials: Credentials | None = None) -> None:
        super().__init__(address, *topics.PUBLISHED, topics.inbox_of(name), credentials=credentials)


class ObserverSockets(EdgeSockets):
    """An observer's link: SUB for the events of all runs; it sends nothing."""

    def __init__(self, address: str, token: str, credentials: Credentials | None = None) -> None:
        self._token = token
        super().__init__(address, keys_of(credentials))

    def _make_sockets(self) -> None:
        self._subscribe(*topics.WATCHED, topics.watch_of(self._token))
        self._connect(self._down, Port.SUBSCRIBE, MONITORED)


class AggregatorSockets(EdgeSockets):
    """An aggregator's link: XPUB to publish, SUB for what the trainers of its run push.

    The connection is up once the broker's own subscription is received (XPUB_VERBOSE): from then on publications reach
    the broker. The subscription ends with the connection.
    """

    def __init__(self, address: str, run: str, credentials: Credentials | None = None) -> None:
        self._run = run
        super().__init__(address, keys_of(credentials))

    def _make_sockets(self) -> None:
        self._up = self._publisher = self._socket(zmq.XPUB)
        self._publisher.xpub_verbose = True
        self._publisher.immediate = True  # else the subscription outlives the connection, and its end is not noticed
        self._poller.register(self._publisher, zmq.POLLIN)
        self._subscribe(topics.UP + self._run + "/", topics.PRESENCE)
        self._connect(self._down, Port.COLLECT, REFUSED)
        self._connect(self._publisher, Port.PUBLISH, REFUSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)

    def _connection_events(self, ready: list[zmq.Socket[bytes]]) -> Iterator[LinkEvent]:
        yield from super()._connection_events(ready)
        if self._publisher in ready:
            for frames in receive_all(self._publisher):
                yield LinkUp() if frames[0][:1] == b"\x01" else LinkDown()

    def send(self, frames: Frames) -> bool:
        """See `Link`; without the broker's subscription XPUB drops messages."""
        return self._is_up and super().send(frames)


class JoinSockets(EdgeSockets):
    """The link of an enrollment client, with a key that only gives access to enrollment."""

    def _make_sockets(self) -> None:
        self._down = self._up = self._socket(zmq.DEALER)
        self._down.immediate = True
        self._poller.register(self._down, zmq.POLLIN)
        self._connect(self._down, Port.JOIN, MONITORED)
