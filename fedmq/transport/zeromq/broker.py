"""The broker's hub as ZeroMQ sockets, bound on consecutive ports.

With access control, every connection is encrypted and authenticated (CURVE with ZAP, https://rfc.zeromq.org/spec/27/),
and each port accepts only the roles that use it. ZAP is asked only when a connection is made, so the sender of each
message is checked as well.
"""

import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import zmq
from zmq.auth.thread import ThreadAuthenticator
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from fedmq.errors import BadConfiguration
from fedmq.protocol import topics
from fedmq.protocol.codec import FRAMES_MAX, Frames
from fedmq.runtime.descriptors import descriptor_limit, open_descriptors
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
from fedmq.transport.zeromq.endpoint import BATCH, NOBLOCK, Endpoint, is_readable, receive_all, try_send
from fedmq.transport.zeromq.watchdog import (
    RESERVED_DESCRIPTORS,
    Connection,
    ResidentMemory,
    Watchdog,
    connection_limits,
    release_freed_memory,
    shut_down,
)

LOOPBACK = ("127.0.0.1", "localhost")
KINDS = {
    Port.PUBLISH: zmq.XSUB,
    Port.SUBSCRIBE: zmq.XPUB,
    Port.PUSH: zmq.PULL,
    Port.COLLECT: zmq.XPUB,
    Port.JOIN: zmq.ROUTER,
}

# A larger frame ends the connection.
FRAME_BYTES = {Port.SUBSCRIBE: 4 << 10, Port.COLLECT: 4 << 10, Port.JOIN: REQUEST_BYTES_MAX}
TURN_MESSAGES = 16  # from one socket before the others have their turn
TOPICS_MAX = 64  # subscriptions of one connection; fedmq's have three or four
OWN_DESCRIPTORS = 32  # of the sockets and the authenticator
CONNECTIONS_MIN = 16  # else the limit of descriptors is too low
LOG_AGAIN_S = 10.0  # between log lines about closed connections
CONNECTIONS = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED

log = logging.getLogger(__name__)


class ReceivedMessage(NamedTuple):
    """A complete message and its connection; `key` is b"" without keys, and after the connection has ended."""

    frames: Frames
    connection: Connection
    key: bytes


class BrokerSockets(Endpoint):
    """The broker's four sockets, and with access control a fifth for enrollment.

    `bytes` counts received bytes, `cuts` the connections that were closed: for a violation, or as too many.

    Raises:
        BadConfiguration: a port is in use, or `host` is not loopback although there is no access control.
    """

    descriptors = OWN_DESCRIPTORS + RESERVED_DESCRIPTORS + CONNECTIONS_MIN

    def __init__(self, host: str, port: int, access: AccessControl | None = None) -> None:
        if access is None and host not in LOOPBACK:
            raise BadConfiguration(
                f"expected --bind 127.0.0.1, got {host}: a broker without keys accepts every connection, so it binds "
                "to the loopback address only; create keys with fedmq keys init"
            )
        parse_address(f"tcp://{host}:{port}")
        self._host, self._port, self._access = LOOPBACK[0] if host == LOOPBACK[1] else host, port, access
        self.bytes = self.cuts = 0
        self._memory = ResidentMemory()
        release_freed_memory()
        super().__init__()
        limits = connection_limits(descriptor_limit() - open_descriptors())
        self._watchdog = Watchdog(handshakes=access is not None, memory=self._memory, limits=limits)

    def _open(self) -> None:
        super()._open()
        self._ended: list[Unsubscribed] = []
        self._topics: dict[Connection, list[str]] = {}  # allowed subscriptions
        self._logged_at = -LOG_AGAIN_S
        self._keys: dict[Connection, bytes] = {}  # of connections that have delivered a message,
        self._connections_of: Counter[bytes] = Counter()  # and how many there are of each key
        self._current: ReceivedMessage | None = None
        self._authenticator = None if self._access is None else self._authenticate(self._access)
        self._ports: dict[zmq.Socket[bytes], Port] = {}
        self._monitors: dict[zmq.Socket[bytes], Port] = {}
        for port in self.ports:
            socket = self._socket(KINDS[port])
            self._ports[socket] = port
            self._monitors[self._monitor(socket, CONNECTIONS)] = port
            self._configure(socket, port)
            self._bind(socket, port)
            self._poller.register(socket, zmq.POLLIN)
        self._socket_of = {port: socket for socket, port in self._ports.items()}
        (self._subscriber_monitor,) = (one for one, port in self._monitors.items() if port is Port.SUBSCRIBE)
        self._socket_of[Port.PUBLISH].send(b"\x01")  # subscribes to everything of every aggregator

    @property
    def ports(self) -> list[Port]:
        return [port for port in Port if port is not Port.JOIN or self._access is not None]

    @property
    def connections(self) -> list[Connection]:
        """All connections; callable from any thread."""
        return list(self._watchdog.states)

    def _authenticate(self, access: AccessControl) -> ThreadAuthenticator:
        """Answer ZAP requests on a thread of their own: on the broker's, a busy moment would delay every handshake."""
        authenticator = ThreadAuthenticator(self._context)
        authenticator.start()
        for port in KINDS:
            authenticator.configure_curve_callback(port.name, credentials_provider=_KeyCheck(access, port))
        return authenticator

    def _configure(self, socket: zmq.Socket[bytes], port: Port) -> None:
        socket.maxmsgsize = FRAME_BYTES.get(port, socket.maxmsgsize)
        if port is Port.SUBSCRIBE:
            socket.xpub_manual = True  # a subscription takes effect only if `allow` is called
        if port is Port.COLLECT:
            socket.xpub_verbose = True
        if self._access is not None:
            socket.curve_server = True
            socket.curve_secretkey = self._access.secret
            socket.zap_domain = port.name.encode()
            socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without an authenticator, reject all connections

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

    def close(self) -> None:
        if self._authenticator is not None:
            self._authenticator.stop()
        super().close()
        self._memory.close()

    # --- receive ------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None) -> None:
        """See `Endpoint`. Wait at most one watchdog interval: libzmq does not signal incomplete multipart messages."""
        pause_s = self._watchdog.pause_s
        super().wait(pause_s if timeout_s is None else min(timeout_s, pause_s))

    def receive(self) -> Iterator[LinkMessage]:
        for _ in range(BATCH // TURN_MESSAGES):
            ready = self._ready()
            for monitor in ready:
                if monitor in self._monitors:
                    self._read_monitor(monitor)
            sockets = [socket for socket in ready if socket in self._ports]
            self._check_connections()
            while self._ended:
                yield self._ended.pop()
            more = False
            for socket in sockets:
                count = 0
                for received in self._receive_turn(socket):
                    count, self._current = count + 1, received
                    if (message := self._event(received)) is not None:
                        yield message
                more = more or count == TURN_MESSAGES
            if not more:  # what arrives from now on ends the next `wait`, which polls anyway
                return

    def _receive_turn(self, socket: zmq.Socket[bytes]) -> Iterator[ReceivedMessage]:
        """Yield a few complete messages: polling all sockets for each one costs more than receiving it."""
        for _ in range(TURN_MESSAGES):
            if (received := self._receive_one(socket)) is None:
                return
            yield received
            if not is_readable(socket):
                return

    def _receive_one(self, socket: zmq.Socket[bytes]) -> ReceivedMessage | None:
        """Return one complete message, or None. Never blocks: an incomplete message wakes a poll, too."""
        if self._ports[socket] is Port.SUBSCRIBE:  # first learn that the previous connection of a descriptor has ended
            self._read_monitor(self._subscriber_monitor)
        try:
            head = frame = socket.recv(NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames, size, count = [head.bytes], len(head), 1
        while frame.more:
            frame = socket.recv(NOBLOCK, copy=False)
            size, count = size + len(frame), count + 1
            if count <= FRAMES_MAX + 1:  # a ROUTER adds one frame
                frames.append(frame.bytes)
        connection = Connection(self._ports[socket], _property(head, zmq.SRCFD, -1))
        key = b"" if self._access is None else z85.decode(_property(head, "User-Id", ""))
        self.bytes += size
        self._watchdog.delivered(connection, key, size)
        if key and connection not in self._keys and not self._register(connection, key):
            return ReceivedMessage([b""], connection, b"")
        if count > FRAMES_MAX + 1:
            self._cut(connection, f"it sent a message of {count} frames")
            return ReceivedMessage([b""], connection, b"")  # without a valid topic, which is dropped
        return ReceivedMessage(frames, connection, key)

    def _register(self, connection: Connection, key: bytes) -> bool:
        """Count a connection for its key; close it, and return False, if the key has too many."""
        assert self._access is not None
        most = self._access.connections_max(key)
        if most is not None and self._connections_of[key] >= min(most, self._watchdog.limits.of_key):
            self._close_connection(connection, "its key has too many connections")
            return False
        self._keys[connection] = key
        self._connections_of[key] += 1
        return True

    def _read_monitor(self, monitor: zmq.Socket[bytes]) -> None:
        """Register the connections that were accepted and that ended."""
        for frames in receive_all(monitor):
            event = parse_monitor_message(frames)
            connection = Connection(self._monitors[monitor], int(event["value"]))
            if (key := self._keys.pop(connection, None)) is not None:
                self._connections_of -= Counter([key])  # drops a key without a connection
            self._ended += [Unsubscribed(topic) for topic in self._topics.pop(connection, ())]
            if event["event"] == zmq.EVENT_ACCEPTED:
                self._watchdog.opened(connection, time.monotonic())
            else:
                self._watchdog.closed(connection)
        for connection in self._watchdog.excess():
            self._close_connection(connection, "too many connections are open, or in a handshake")

    def _check_connections(self) -> None:
        """Close the connections that only consume memory."""
        now = time.monotonic()
        if not self._watchdog.measure(now):
            return
        for monitor in self._monitors:  # connections that have ended are not judged: their descriptors may be reused
            self._read_monitor(monitor)
        busy = {port for port, socket in self._socket_of.items() if is_readable(socket)}
        for connection in self._watchdog.judge(now, busy):
            state = self._watchdog.states[connection]
            self._cut(connection, f"it sent {state.pending} bytes without a complete message")

    def _cut(self, connection: Connection, reason: str) -> None:
        """Close a connection for a violation: its key is blocked for a while."""
        if self._access is not None and connection in self._keys:
            self._access.block(self._keys[connection])
        self._close_connection(connection, reason)

    def _close_connection(self, connection: Connection, reason: str) -> None:
        self.cuts += 1
        if connection in self._watchdog.states:  # else it has ended, and its descriptor may be reused
            shut_down(connection.descriptor)
        if (now := time.monotonic()) >= self._logged_at + LOG_AGAIN_S:  # a stranger must not fill the disk with lines
            self._logged_at = now
            log.warning("a connection is closed: %s", reason)

    def _sender(self, received: ReceivedMessage) -> str | None:
        """Return the authenticated sender: "" without keys, None if the message must be dropped."""
        if self._access is None:
            return ""
        return self._access.sender(received.connection.port, received.key, sum(map(len, received.frames)))

    def _event(self, received: ReceivedMessage) -> LinkMessage | None:
        port, frames = received.connection.port, received.frames
        if port is Port.SUBSCRIBE:
            return self._subscription(received)
        if port is Port.COLLECT and frames[0][:1] != b"\x01":
            return None
        if (sender := self._sender(received)) is None:
            return None
        match port:
            case Port.PUBLISH:
                return Published(frames)
            case Port.PUSH:
                return None if frames == [topics.HERE.encode()] else Pushed(sender, frames)
            case Port.COLLECT:
                return Listening(frames[0][1:].decode(errors="replace"))
            case Port.JOIN:
                return EnrollmentRequest(received.key, frames[1:])

    def _subscription(self, received: ReceivedMessage) -> Subscribed | None:
        kind, topic = received.frames[0][:1], received.frames[0][1:].decode(errors="replace")
        if kind == b"\x00":  # libzmq also sends one at the end of a connection, without its identity: see _read_monitor
            return None
        sender, subscribed = self._sender(received), self._topics.get(received.connection, ())
        if kind != b"\x01" or sender is None or len(subscribed) >= TOPICS_MAX:
            if self._access is not None:  # without keys the descriptor may belong to another connection by now
                self._cut(received.connection, "it sent an invalid subscription, or too many")
            return None
        if received.connection not in self._watchdog.states:  # it has ended, and nothing would end this presence
            return None
        if topic in subscribed:  # a second one would count as another presence and get another copy of each round
            return None
        return Subscribed(topic, sender if self._access is not None else None)

    # --- send ---------------------------------------------------------------------------------------------------

    def allow(self, topic: str) -> None:
        assert self._current is not None
        self._socket_of[Port.SUBSCRIBE].subscribe(topic)
        self._topics.setdefault(self._current.connection, []).append(topic)

    def publish(self, frames: Frames) -> None:
        try_send(self._socket_of[Port.SUBSCRIBE], frames)

    def deliver(self, frames: Frames) -> None:
        try_send(self._socket_of[Port.COLLECT], frames)

    def answer(self, frames: Frames) -> None:
        assert self._current is not None
        try_send(self._socket_of[Port.JOIN], [self._current.frames[0], *frames])

    def disconnect(self, *, violation: bool) -> None:
        assert self._current is not None
        if violation:
            self._cut(self._current.connection, "it subscribed to another trainer's inbox")
        else:
            self._close_connection(self._current.connection, "its trainer has too many inboxes")

    def disconnect_keys(self, keys: Collection[bytes]) -> None:
        """See `Hub`. A connection without a message has no subscription, and its first message is refused."""
        for monitor in self._monitors:  # a connection that has ended is not closed: its descriptor may be reused
            self._read_monitor(monitor)
        for connection, key in self._keys.items():
            if key in keys:
                shut_down(connection.descriptor)


class _KeyCheck:
    """Answers the authenticator whether a port accepts a key. It must never raise: that would end the thread."""

    def __init__(self, access: AccessControl, port: Port) -> None:
        self._access, self._port = access, port

    def callback(self, _domain: str, key: bytes) -> bool:
        try:
            return self._access.allows(self._port, z85.decode(key))
        except Exception:
            log.exception("a key could not be looked up and is rejected")
            return False


def _property(frame: zmq.Frame, name: str | int, missing: Any) -> Any:
    """Return a property of a frame's connection; `missing` for the unsubscription of a connection that has ended."""
    try:
        return frame.get(name)
    except zmq.ZMQError:
        return missing
