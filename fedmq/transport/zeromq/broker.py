"""The broker's hub as ZeroMQ sockets, bound on consecutive ports.

With a gate, every connection is encrypted and authenticated (CURVE with ZAP, https://rfc.zeromq.org/spec/27/), each
port lets in only who has business there, and of every message it is asked again whose it is: ZAP is asked only when a
connection is made. Knows nothing of what a message means.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from fedmq.errors import BadConfiguration
from fedmq.protocol.codec import FRAMES_MAX, Frames
from fedmq.security.enrollment import REQUEST_BYTES_MAX
from fedmq.transport.address import PORTS, parse_address
from fedmq.transport.link import (
    AccessControl,
    EnrollmentRequest,
    LinkMessage,
    Listening,
    Port,
    Published,
    Pushed,
    Subscribed,
    Unsubscribed,
)
from fedmq.transport.zeromq.endpoint import BATCH, Endpoint, drain, give
from fedmq.transport.zeromq.watchdog import Connection, Watchdog, give_back_memory, shut_down

LOOPBACK = ("127.0.0.1", "localhost")
KINDS = {
    Port.PUBLISH: zmq.XSUB,
    Port.SUBSCRIBE: zmq.XPUB,
    Port.PUSH: zmq.PULL,
    Port.COLLECT: zmq.XPUB,
    Port.JOIN: zmq.ROUTER,
}

FRAME_BYTES = {Port.SUBSCRIBE: 4 << 10, Port.COLLECT: 4 << 10, Port.JOIN: REQUEST_BYTES_MAX}  # more is cut off
TURN = 16  # messages from one socket before the others have their turn
TOPICS_MAX = 64  # of one connection; ours have three
TOLD_AGAIN_S = 10.0
CONNECTIONS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED

log = logging.getLogger(__name__)


class Taken(NamedTuple):
    """A whole message, and over which connection it came; `key` is b"" without keys, or when it has ended."""

    frames: Frames
    connection: Connection
    key: bytes


class BrokerSockets(Endpoint):
    """The broker's sockets: four, and a fifth for those who ask to be let in where there are keys.

    Raises:
        BadConfiguration: a port is in use, or `host` is not loopback although there is no gate.
    """

    def __init__(self, host: str, port: int, access: AccessControl | None = None) -> None:
        if access is None and host not in LOOPBACK:
            raise BadConfiguration(
                f"expected --bind 127.0.0.1, got {host}: a broker without keys would let anybody in, "
                "so it binds to the loopback address and nothing else; fedmq keys init makes keys"
            )
        parse_address(f"tcp://{host}:{port}")
        self._host, self._port, self._access = LOOPBACK[0] if host == LOOPBACK[1] else host, port, access
        self._takes: dict[Port, Callable[[Taken], LinkMessage | None]] = {
            Port.PUBLISH: self._published,
            Port.SUBSCRIBE: self._subscribed,
            Port.PUSH: self._pushed,
            Port.COLLECT: self._listening,
            Port.JOIN: self._asked,
        }
        self._topics: dict[Connection, list[str]] = {}  # what was admitted to whom
        self.bytes = self.cuts = 0  # that came; connections that were cut
        give_back_memory()
        super().__init__()

    def _begin(self) -> None:
        super()._begin()
        self._gone = [Unsubscribed(topic) for topics in self._topics.values() for topic in topics]
        self._topics.clear()
        self._watchdog = Watchdog(handshakes=self._access is not None)
        self._told_at = -TOLD_AGAIN_S
        self._keys: dict[Connection, bytes] = {}  # of those that have sent something whole
        self._current: Taken | None = None
        self._authenticator = None if self._access is None else self._authenticate(self._access)
        self._ports: dict[zmq.Socket[bytes], Port] = {}
        self._monitors: dict[zmq.Socket[bytes], Port] = {}
        for port in self.ports:
            socket = self._socket(KINDS[port])
            self._ports[socket] = port
            self._monitors[self._monitor(socket, CONNECTIONS)] = port
            self._guard(socket, port)
            self._bind(socket, port)
            self._poller.register(socket, zmq.POLLIN)
        self._of = {port: socket for socket, port in self._ports.items()}
        (self._subscriber_monitor,) = (one for one, port in self._monitors.items() if port is Port.SUBSCRIBE)
        self._of[Port.PUBLISH].send(b"\x01")  # everything, from every aggregator

    @property
    def ports(self) -> list[Port]:
        """Those that are bound."""
        return [port for port in Port if port is not Port.JOIN or self._access is not None]

    @property
    def connections(self) -> list[Connection]:
        """All that there are; any thread may ask."""
        return list(self._watchdog.held)

    def _authenticate(self, access: AccessControl) -> ThreadAuthenticator:
        """A thread that answers whether a key is let in: on this one, a busy moment would hold up every handshake."""
        authenticator = ThreadAuthenticator(self._context)
        authenticator.start()
        for port in KINDS:
            authenticator.configure_curve_callback(port.name, credentials_provider=_Door(access, port))
        return authenticator

    def _guard(self, socket: zmq.Socket[bytes], port: Port) -> None:
        socket.maxmsgsize = FRAME_BYTES.get(port, socket.maxmsgsize)
        if port is Port.SUBSCRIBE:
            socket.xpub_manual = True  # a topic is had only if it is admitted
        if port is Port.COLLECT:
            socket.xpub_verbose = True
        if self._access is not None:
            socket.curve_server = True
            socket.curve_secretkey = self._access.secret
            socket.zap_domain = port.name.encode()
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an authenticator nobody is let in

    def _bind(self, socket: zmq.Socket[bytes], port: Port) -> None:
        try:
            socket.bind(f"tcp://{self._host}:{self._port + port}")
        except zmq.ZMQError as error:
            self.close()
            if error.errno != zmq.EADDRINUSE:
                raise BadConfiguration(
                    f"cannot bind {self._host}:{self._port + port} ({error.strerror}): expected an address of this "
                    "machine; choose it with --bind, 0.0.0.0 for all of them"
                ) from error
            raise BadConfiguration(
                f"cannot bind {self._host}:{self._port + port} ({error.strerror}); the broker needs the {PORTS} "
                f"ports {self._port} to {self._port + PORTS - 1}: choose others with --port"
            ) from error

    def _end(self) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        super()._end()

    # --- what comes ---------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> None:
        """See `Endpoint`; never for long: parts of a message that is never whole wake nobody."""
        pause_s = self._watchdog.pause_s
        super().wait(pause_s if timeout_s is None else min(timeout_s, pause_s))

    def receive(self) -> Iterator[LinkMessage]:
        for _ in range(BATCH // TURN):
            ready = self._ready()
            for monitor in ready:
                if monitor in self._monitors:
                    self._follow(monitor)
            sockets = [socket for socket in ready if socket in self._ports]
            self._look()
            while self._gone:
                yield self._gone.pop()
            some = False
            for socket in sockets:
                for one in self._taken_from(socket):
                    some, self._current = True, one
                    if (traffic := self._takes[one.connection.port](one)) is not None:
                        yield traffic
            if not some:
                return

    def _taken_from(self, socket: zmq.Socket[bytes]) -> Iterator[Taken]:
        """A few whole messages: to poll all sockets again for each would cost more than to take it."""
        for _ in range(TURN):
            if (one := self._take(socket)) is None:
                return
            yield one
            if not int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                return

    def _take(self, socket: zmq.Socket[bytes]) -> Taken | None:
        """One whole message, or None. Never blocks: a half-arrived message wakes a poll, too."""
        if self._ports[socket] is Port.SUBSCRIBE:  # a descriptor's old connection must be known to have ended
            self._follow(self._subscriber_monitor)
        try:
            head = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames, more, size, many = [head.bytes], socket.getsockopt(zmq.RCVMORE), len(head), 1
        while more:
            frame = socket.recv(zmq.NOBLOCK)
            more, size, many = socket.getsockopt(zmq.RCVMORE), size + len(frame), many + 1
            if many <= FRAMES_MAX + 1:  # a router's message has one more in front
                frames.append(frame)
        connection = Connection(self._ports[socket], _property(head, zmq.SRCFD, -1))
        key = b"" if self._access is None else z85.decode(_property(head, "User-Id", ""))
        if key:
            self._keys[connection] = key
        self.bytes += size
        self._watchdog.delivered(connection, key, size)
        if many > FRAMES_MAX + 1:
            self._cut(connection, f"it sent a message of {many} frames")
            return Taken([b""], connection, b"")  # which is nobody's, and goes nowhere
        return Taken(frames, connection, key)

    def _follow(self, monitor: zmq.Socket[bytes]) -> None:
        """Take note of the connections that began and ended."""
        for frames in drain(monitor):
            event = parse_monitor_message(frames)
            connection = Connection(self._monitors[monitor], int(event["value"]))
            self._keys.pop(connection, None)
            self._gone += [Unsubscribed(topic) for topic in self._topics.pop(connection, ())]
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._watchdog.opened(connection, time.monotonic())
            else:
                self._watchdog.closed(connection)

    def _look(self) -> None:
        """Cut the connections that only take memory."""
        now = time.monotonic()
        if not self._watchdog.look(now):
            return
        for monitor in self._monitors:  # those that have ended meanwhile are not judged, for their descriptors may be
            self._follow(monitor)  # another's
        busy = {port for port, socket in self._of.items() if int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN}
        for connection in self._watchdog.judge(now, busy):
            held = self._watchdog.held[connection]
            self._cut(connection, f"it sent {held.pending} bytes without a whole message")

    def _cut(self, connection: Connection, why: str) -> None:
        self.cuts += 1
        if self._access is not None and connection in self._keys:
            self._access.block(self._keys[connection])
        if connection in self._watchdog.held:  # else it has ended, and its descriptor may be another's
            shut_down(connection.descriptor)
        if (now := time.monotonic()) >= self._told_at + TOLD_AGAIN_S:  # strangers must not fill a disk with lines
            self._told_at = now
            log.warning("a connection is cut: %s", why)

    def _sender(self, port: Port, taken: Taken) -> str | None:
        """Whose message it is: "" without keys, None if it must be dropped."""
        return "" if self._access is None else self._access.sender(port, taken.key, sum(map(len, taken.frames)))

    def _published(self, taken: Taken) -> LinkMessage | None:
        return None if self._sender(Port.PUBLISH, taken) is None else Published(taken.frames)

    def _pushed(self, taken: Taken) -> LinkMessage | None:
        sender = self._sender(Port.PUSH, taken)
        return None if sender is None else Pushed(sender, taken.frames)

    def _subscribed(self, taken: Taken) -> LinkMessage | None:
        wants, topic = taken.frames[0][:1], taken.frames[0][1:].decode(errors="replace")
        if wants == b"\x00":  # libzmq makes one up when a connection ends, and does not say whose: `_follow` knows
            return None
        sender, had = self._sender(Port.SUBSCRIBE, taken), self._topics.get(taken.connection, ())
        if wants != b"\x01" or sender is None or len(had) >= TOPICS_MAX:
            if self._access is not None:  # else nobody is known, and its descriptor may soon be another's
                self._cut(taken.connection, "it sent something that is no subscription, or too many of them")
            return None
        if taken.connection not in self._watchdog.held:  # it has ended, and nothing would end this presence
            return None
        if topic in had:  # once more it would be another presence, and another copy of each round
            return None
        return Subscribed(topic, sender if self._access is not None else None)

    def _listening(self, taken: Taken) -> LinkMessage | None:
        if taken.frames[0][:1] != b"\x01" or self._sender(Port.COLLECT, taken) is None:
            return None
        return Listening(taken.frames[0][1:].decode(errors="replace"))

    def _asked(self, taken: Taken) -> LinkMessage | None:
        return None if self._sender(Port.JOIN, taken) is None else EnrollmentRequest(taken.key, taken.frames[1:])

    # --- what is done -------------------------------------------------------------------------------------------

    def allow(self, topic: str) -> None:
        assert self._current is not None
        self._of[Port.SUBSCRIBE].subscribe(topic)
        self._topics.setdefault(self._current.connection, []).append(topic)

    def publish(self, frames: Frames) -> None:
        give(self._of[Port.SUBSCRIBE], frames)

    def deliver(self, frames: Frames) -> None:
        give(self._of[Port.COLLECT], frames)

    def answer(self, frames: Frames) -> None:
        assert self._current is not None
        give(self._of[Port.JOIN], [self._current.frames[0], *frames])

    def disconnect(self) -> None:
        assert self._current is not None
        self._cut(self._current.connection, "it asked for another's inbox")

    def drop_connections(self) -> None:
        """Let go of every connection and listen anew: those who are still let in are back within a second."""
        for socket in self._sockets:
            socket.linger = 0
        self._end()
        self._begin()


class _Door:
    """What the authenticator asks: whether a key is let in at a port. It must never raise: its thread would end."""

    def __init__(self, access: AccessControl, port: Port) -> None:
        self._access, self._port = access, port

    def callback(self, _domain: str, key: bytes) -> bool:
        """Whether this public key, in Z85, is let in."""
        try:
            return self._access.allows(self._port, z85.decode(key))
        except Exception:
            log.exception("a key could not be looked up; it is not let in")
            return False


def _property(frame: zmq.Frame, name: str | int, missing: Any) -> Any:
    """A property of a frame's connection; the end of a subscription comes without any when the connection has ended."""
    try:
        return frame.get(name)
    except zmq.ZMQError:
        return missing
