"""ZeroMQ: the links of `network` as real sockets. The only module that imports zmq.

Knows nothing of messages: frames in, frames out. One thread owns a link; training never runs on it, because a SUB
socket re-subscribes after a broker's restart only when its thread touches it.

Every limit is set on every socket: libzmq's own defaults are no limit on a frame's size, 1,000 messages per peer, and
lingering for ever.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import zmq
from zmq.utils.monitor import parse_monitor_message

from fedmq import topics
from fedmq.address import PORTS, parse_address
from fedmq.errors import BadConfiguration
from fedmq.network import (
    Delivered,
    LinkDown,
    LinkUp,
    Listening,
    News,
    Published,
    Pushed,
    Subscribed,
    Traffic,
    Unsubscribed,
)
from fedmq.wire import FRAME_BYTES_MAX, FRAMES_MAX, Frames

QUEUE_MESSAGES_MAX = 10_000  # per peer and direction
HEARTBEAT_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 8_000  # a frame must pass within it; a peer that is cut off is noticed by then
HANDSHAKE_MS = 3_000
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1_000
BACKLOG = 4_096
LINGER_MS = 1_000
BATCH = 1_000  # messages taken in one `receive`
LOOPBACK = ("127.0.0.1", "localhost")


class Endpoint:
    """What all three ends have in common: a context, a poller, a way to be woken, an end."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poller.register(self._waker, zmq.POLLIN)
        self._polled: list[zmq.Socket[bytes]] | None = None

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.sndhwm = socket.rcvhwm = QUEUE_MESSAGES_MAX
        socket.maxmsgsize = FRAME_BYTES_MAX
        socket.linger = LINGER_MS
        socket.handshake_ivl = HANDSHAKE_MS
        socket.heartbeat_ivl = HEARTBEAT_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        socket.backlog = BACKLOG
        self._sockets.append(socket)
        return socket

    def wait(self, timeout_s: float | None) -> None:
        """Return when there is something to receive, when woken, or after `timeout_s` (None: only then)."""
        ready = self._poller.poll(None if timeout_s is None else max(0, int(timeout_s * 1000 + 0.999)))
        self._polled = [socket for socket, _ in ready if socket != self._waker]
        if len(self._polled) < len(ready):
            os.eventfd_read(self._waker)

    def _ready(self) -> list[zmq.Socket[bytes]]:
        """The sockets that have something now, or a part of it: one poll costs less than one take that fails.

        What the last `wait` saw is used once; it need not be asked for again.
        """
        polled, self._polled = self._polled, None
        if polled is not None:
            return polled
        return [socket for socket, _ in self._poller.poll(0) if socket != self._waker]

    def wake(self) -> None:
        """End a `wait`, from any thread or a signal handler."""
        os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Send what is queued for at most a second, and let go of the network."""
        for socket in self._sockets:
            socket.close()
        self._context.term()
        os.close(self._waker)


def _take(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """One whole message, or None. Never blocks: a half-arrived message wakes a poll, too."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def _drain(socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
    """Whole messages until there is none, or a batch is full."""
    for _ in range(BATCH):
        if (frames := _take(socket)) is None:
            return
        yield frames


def _give(socket: zmq.Socket[bytes], frames: Frames) -> bool:
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


class EdgeSockets(Endpoint):
    """An edge's end: it connects, to whatever stands at the broker's address."""

    def __init__(self, address: str) -> None:
        self.host, self.port = parse_address(address)
        super().__init__()

    def _connect(self, socket: zmq.Socket[bytes], offset: int) -> None:
        socket.connect(f"tcp://{self.host}:{self.port + offset}")


class SubscriberSockets(EdgeSockets):
    """The link of who hears of runs: SUB for these topics, PUSH for what it says (only to a live connection)."""

    def __init__(self, address: str, *wants: str) -> None:
        super().__init__(address)
        self._down = self._socket(zmq.SUB)
        self._down.linger = 0  # nothing but subscriptions leaves through it
        self._up = self._socket(zmq.PUSH)
        self._up.immediate = True
        self._monitor = self._down.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._sockets.append(self._monitor)
        self._poller.register(self._monitor, zmq.POLLIN)
        for topic in wants:
            self._down.subscribe(topic)
        self._poller.register(self._down, zmq.POLLIN)
        self._connect(self._up, 2)
        self._connect(self._down, 1)

    def receive(self) -> Iterator[News]:
        """See `network.Link`."""
        ready = self._ready()
        if self._monitor in ready:
            for frames in _drain(self._monitor):
                event = parse_monitor_message(frames)["event"]
                yield LinkUp() if event == zmq.EVENT_HANDSHAKE_SUCCEEDED else LinkDown()
        if self._down in ready:
            yield from map(Delivered, _drain(self._down))

    def send(self, frames: Frames) -> bool:
        """See `network.Link`."""
        return _give(self._up, frames)

    def close(self) -> None:
        """See `Endpoint`."""
        self._down.disable_monitor()
        super().close()


class TrainerSockets(SubscriberSockets):
    """A trainer's link: rounds, beacons and its inbox."""

    def __init__(self, address: str, name: str) -> None:
        super().__init__(address, topics.ROUNDS, topics.BEACONS, topics.inbox_of(name))  # the last means "I am here"


class AggregatorSockets(EdgeSockets):
    """An aggregator's link: XPUB for what it publishes, SUB for what the trainers of its run push.

    The broker's own subscription, seen through XPUB_VERBOSE, says that publications reach it from now on; it ends
    with the connection.
    """

    def __init__(self, address: str, run: str) -> None:
        super().__init__(address)
        self._down = self._socket(zmq.XPUB)
        self._down.xpub_verbose = True
        self._down.immediate = True  # else the subscription outlives the connection, and nobody hears that it is cut
        self._up = self._socket(zmq.SUB)
        self._up.subscribe(topics.up_to(run) + "/")
        self._up.subscribe(topics.PRESENCE)
        self._heard_of = False  # whether a broker has subscribed; XPUB drops what nobody has
        self._poller.register(self._down, zmq.POLLIN)
        self._poller.register(self._up, zmq.POLLIN)
        self._connect(self._up, 3)
        self._connect(self._down, 0)

    def receive(self) -> Iterator[News]:
        """See `network.Link`."""
        ready = self._ready()
        if self._down in ready:
            for frames in _drain(self._down):
                self._heard_of = frames[0][:1] == b"\x01"
                yield LinkUp() if self._heard_of else LinkDown()
        if self._up in ready:
            yield from map(Delivered, _drain(self._up))

    def send(self, frames: Frames) -> bool:
        """See `network.Link`."""
        return self._heard_of and _give(self._down, frames)


class BrokerSockets(Endpoint):
    """The broker's four sockets, bound on consecutive ports.

    Raises:
        BadConfiguration: a port is in use, or `host` is not loopback: without keys nothing else is bound.
    """

    def __init__(self, host: str, port: int) -> None:
        if host not in LOOPBACK:
            raise BadConfiguration(
                f"expected --bind 127.0.0.1, got {host}: a broker without keys would let anybody in, "
                "so it binds to the loopback address and nothing else"
            )
        parse_address(f"tcp://{host}:{port}")
        super().__init__()
        self._published = self._socket(zmq.XSUB)
        self._subscribers = self._socket(zmq.XPUB)
        self._pushed = self._socket(zmq.PULL)
        self._aggregators = self._socket(zmq.XPUB)
        self._subscribers.xpub_manual = True  # a topic is had only if it is admitted
        self._aggregators.xpub_verbose = True
        for offset, socket in enumerate(self._sockets):
            try:
                socket.bind(f"tcp://{LOOPBACK[0]}:{port + offset}")
            except zmq.ZMQError as error:
                self.close()
                raise BadConfiguration(
                    f"cannot bind {LOOPBACK[0]}:{port + offset} ({error.strerror}); the broker needs the {PORTS} ports "
                    f"{port} to {port + PORTS - 1}: choose others with --port"
                ) from error
            self._poller.register(socket, zmq.POLLIN)
        self._takes: dict[zmq.Socket[bytes], Callable[[], Traffic | None]] = {
            self._published: self._from_aggregators,
            self._subscribers: self._from_subscribers,
            self._pushed: self._from_trainers,
            self._aggregators: self._listeners,
        }
        self._published.send(b"\x01")  # everything, from every aggregator

    def receive(self) -> Iterator[Traffic]:
        """See `network.Hub`."""
        for _ in range(BATCH):
            taken = [one for socket in self._ready() if (one := self._takes[socket]()) is not None]
            if not taken:
                return
            yield from taken

    def _from_subscribers(self) -> Traffic | None:
        frames = _take(self._subscribers)
        if not frames or frames[0][:1] not in (b"\x00", b"\x01"):
            return None
        topic = frames[0][1:].decode(errors="replace")
        return Subscribed(topic) if frames[0][:1] == b"\x01" else Unsubscribed(topic)

    def _from_aggregators(self) -> Traffic | None:
        frames = _take(self._published)
        return None if frames is None else Published(frames[: FRAMES_MAX + 1])

    def _from_trainers(self) -> Traffic | None:
        frames = _take(self._pushed)
        return None if frames is None else Pushed("", frames[: FRAMES_MAX + 1])

    def _listeners(self) -> Traffic | None:
        frames = _take(self._aggregators)
        return Listening(frames[0][1:].decode(errors="replace")) if frames and frames[0][:1] == b"\x01" else None

    def admit(self, topic: str) -> None:
        """See `network.Hub`."""
        self._subscribers.subscribe(topic)

    def publish(self, frames: Frames) -> None:
        """See `network.Hub`."""
        _give(self._subscribers, frames)

    def deliver(self, frames: Frames) -> None:
        """See `network.Hub`."""
        _give(self._aggregators, frames)
