"""The watchdog closes connections that send bytes but never a complete message, and those that are too many.

libzmq limits a frame (MAXMSGSIZE) and counts complete messages (HWM). But it keeps all parts of an incomplete message
in memory, however many arrive. The kernel counts the bytes of each connection (TCP_INFO), and the broker counts the
bytes that libzmq has delivered. The difference belongs to an incomplete message, or to complete ones that wait in a
queue. Receiving distinguishes these, so a connection is suspected once before it is closed.

Connections use descriptors, which the service also needs for its own files. Over their limits, unfinished handshakes
are closed first, oldest first; then connections without a complete message, newest first.
"""

import ctypes
import os
import resource
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedmq.protocol.codec import MESSAGE_BYTES_MAX
from fedmq.runtime.last_answer import LastAnswer
from fedmq.transport.link import Port

MEMORY_CHECK_S = 0.05  # between checks of this process's memory,
FAST_CHECK_S = 0.002  # and while it grows or a handshake is in progress
SWEEP_S = 1.0  # between checks of all connections while memory does not grow
GROWTH_BYTES = 1 << 19  # growth of the process that triggers a check of all connections
HANDSHAKE_BYTES_MAX = 8 << 10  # a CURVE handshake takes less than 2 KiB
# Bytes that the broker has sent at the end of a CURVE handshake (RFC 26): greeting 64, WELCOME 170, READY more than 60.
# Before it, even an ERROR makes fewer. The peer's kernel acknowledges them before the peer can send anything else.
HANDSHAKE_SENT_BYTES = 256
OWNER_BYTES_MAX = 2 * MESSAGE_BYTES_MAX  # pending bytes of all connections of one key,
UNKNOWN_BYTES_MAX = 4 * MESSAGE_BYTES_MAX  # and of all connections without a complete message yet
KERNEL_BYTES_MAX = 16 << 20  # received but not read by libzmq: tcp_rmem allows 6 MiB by default
DRIFT_BYTES_S = 1024  # heartbeats and other bytes that are not part of a message
RESERVED_DESCRIPTORS = 32  # for the service's own files
HANDSHAKING_SHARE = 4  # at most this part of the connections is in a handshake: a burst is accepted before it is seen
HANDSHAKING_MAX = 16_384  # connections without a finished handshake: 5 kB each
KEY_SHARE = 8  # one key has at most this part of the connections,
KEY_CONNECTIONS_MIN = 4  # but so many
SHED_SHARE = 8  # close so large a part more than necessary: each time, all connections are looked at
_ACKED_AT, _RECEIVED_AT = 120, 128  # tcpi_bytes_acked and _received in struct tcp_info, linux/tcp.h, since Linux 4.1
_TCP_INFO_BYTES = 256
_M_MMAP_THRESHOLD = -3  # malloc.h
_PAGE_BYTES = resource.getpagesize()
_STATM = Path("/proc/self/statm")


class TrafficCounts(NamedTuple):
    """Bytes received over a TCP connection, and bytes sent that the peer has acknowledged."""

    received: int
    acknowledged: int


def read_counts(descriptor: int) -> TrafficCounts | None:
    """Return the counts of a TCP connection; None if the descriptor is no TCP connection (any more)."""
    try:
        with _borrowed(descriptor) as end:
            info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    if len(info) < _RECEIVED_AT + 8:
        return None
    acknowledged, received = struct.unpack_from("<QQ", info, _ACKED_AT)
    return TrafficCounts(received, acknowledged)


def shut_down(descriptor: int) -> None:
    """End a TCP connection if it still exists; the owner of the descriptor notices it and closes it."""
    with suppress(OSError), _borrowed(descriptor) as end:
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """Use the TCP connection of libzmq without closing it."""
    end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    try:
        yield end
    finally:
        end.detach()


class ResidentMemory:
    """The resident memory of this process, from a file that stays open: a look needs no descriptor."""

    def __init__(self) -> None:
        self._descriptor = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)
        self._last_answer, self._bytes = LastAnswer(_STATM), 0

    def __call__(self) -> int:
        """Return it in bytes."""
        self._bytes = self._last_answer.of(self._read, self._bytes)
        return self._bytes

    def close(self) -> None:
        os.close(self._descriptor)

    def _read(self) -> int:
        return int(os.pread(self._descriptor, 256, 0).split()[1]) * _PAGE_BYTES


class ConnectionLimits(NamedTuple):
    """How many connections may be open: all, those without a finished handshake, and those of one key."""

    total: int
    handshaking: int
    of_key: int


def connection_limits(descriptors: int) -> ConnectionLimits:
    """Divide the descriptors that are left for connections."""
    total = max(0, descriptors - RESERVED_DESCRIPTORS)
    return ConnectionLimits(
        total, min(HANDSHAKING_MAX, total // HANDSHAKING_SHARE), max(KEY_CONNECTIONS_MIN, total // KEY_SHARE)
    )


def release_freed_memory() -> None:
    """Make the allocator return large freed blocks to the system.

    Otherwise glibc keeps tens of megabytes after a flood, in which the next flood does not show as growth. Other C
    libraries may have no such setting.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, GROWTH_BYTES)


class Connection(NamedTuple):
    """An accepted connection; after its end, its descriptor may be reused."""

    port: Port
    descriptor: int


@dataclass
class ConnectionState:
    """Measurements of one connection."""

    opened: float
    handshake_done: bool = False
    owner: bytes | None = None  # key of the peer; known after a complete message
    pending: int = 0  # bytes that may belong to an incomplete message
    received: int = 0  # at the last measurement
    delivered: int | None = None  # bytes of the messages delivered since; None: no message
    closing: bool = False  # it is counted no more, and ends soon
    suspected_at: int | None = None  # number of messages delivered at its port when it first had too many pending bytes

    def measure(self, counts: TrafficCounts | None) -> None:
        """Update with the counts of the kernel."""
        if counts is None or counts.received < self.received:  # it has ended, and the descriptor may be reused
            self.received, self.pending = 0 if counts is None else counts.received, 0
        else:
            new, self.received = counts.received - self.received, counts.received
            self.pending += new
            if self.delivered is not None:  # earlier bytes were part of that message, or of one before it
                self.pending = min(new, max(0, self.pending - self.delivered))
                self.suspected_at = None
            self.handshake_done = self.handshake_done or counts.acknowledged >= HANDSHAKE_SENT_BYTES
        self.delivered = None


def _over(count: int, limit: int) -> int:
    """Return how many of `count` to close: none within the limit, else more than are over it."""
    return 0 if count <= limit else count - limit + limit // SHED_SHARE


class Watchdog:
    """Measures all connections of a process. Call `measure` often, and `judge` when it returns True.

    `handshakes`: whether connections begin with a CURVE handshake. Tests replace the kernel by `counts` and `memory`.
    Call `excess` when connections have been accepted.
    """

    def __init__(
        self,
        *,
        handshakes: bool = True,
        counts: Callable[[int], TrafficCounts | None] = read_counts,
        memory: Callable[[], int],
        limits: ConnectionLimits,
    ) -> None:
        self.states: dict[Connection, ConnectionState] = {}
        self._handshakes, self._counts, self._memory = handshakes, counts, memory
        self._measure_at = self._sweep_at = 0.0
        self._memory_before = memory()
        self._handshakes_open = 0  # connections whose handshake may not be over
        self._closing = 0
        self.limits = limits
        self._delivered: Counter[Port] = Counter()

    def opened(self, connection: Connection, now: float) -> None:
        self.states[connection] = ConnectionState(now, handshake_done=not self._handshakes)
        self._handshakes_open += self._handshakes
        self._measure_at = min(self._measure_at, now + self.pause_s)

    def closed(self, connection: Connection) -> None:
        state = self.states.pop(connection, None)
        if state is not None and state.closing:
            self._closing -= 1

    def excess(self) -> list[Connection]:
        """Return the connections to close because too many are open, or in a handshake."""
        total, handshaking = self.limits.total, self.limits.handshaking
        if self._handshakes_open <= handshaking and len(self.states) - self._closing <= total:
            return []
        unfinished, anonymous, known = list[Connection](), list[Connection](), list[Connection]()
        for connection, state in self.states.items():  # oldest first
            if state.closing:
                continue
            if not state.handshake_done:
                state.measure(self._counts(connection.descriptor))
            kind = unfinished if not state.handshake_done else anonymous if state.owner is None else known
            kind.append(connection)
        closing = unfinished[: _over(len(unfinished), handshaking)]
        over = _over(len(unfinished) + len(anonymous) + len(known) - len(closing), total)
        closing += [*unfinished[len(closing) :], *reversed(anonymous), *reversed(known)][:over]
        for connection in closing:
            self.states[connection].closing = True
        self._closing += len(closing)
        self._handshakes_open = sum(not self.states[one].closing for one in unfinished)
        return closing

    def delivered(self, connection: Connection, owner: bytes, size: int) -> None:
        """Register a complete message of `size` bytes from `owner` (b"": unknown)."""
        self._delivered[connection.port] += 1
        if (state := self.states.get(connection)) is not None:
            state.owner, state.delivered = owner, size + (state.delivered or 0)

    @property
    def pause_s(self) -> float:
        """Longest wait until the next `measure`."""
        return FAST_CHECK_S if self._handshakes_open else MEMORY_CHECK_S

    def measure(self, now: float) -> bool:
        """Read the kernel's counts if a measurement is due; return whether to `judge` now."""
        if now < self._measure_at:
            return False
        memory = self._memory()
        self._memory_before = min(self._memory_before, memory)  # freed memory may be used again
        self._measure_at = now + self.pause_s
        if now < self._sweep_at and memory < self._memory_before + GROWTH_BYTES:
            return False
        if memory >= self._memory_before + GROWTH_BYTES:
            self._measure_at = now + FAST_CHECK_S
        self._sweep_at, self._memory_before = now + SWEEP_S, memory
        for connection, state in self.states.items():
            state.measure(self._counts(connection.descriptor))
        self._handshakes_open = sum(not state.handshake_done and not state.closing for state in self.states.values())
        return True

    def judge(self, now: float, busy: Collection[Port] = ()) -> list[Connection]:
        """Return the connections to close; at `busy` ports a complete message waits to be received.

        A connection with too many pending bytes is suspected first: complete messages are received in the meantime. On
        a busy port, that takes until every connection has had its turn. Far too many bytes on a port that is not busy
        need no second measurement.
        """
        handshaking = [(one, state) for one, state in self.states.items() if not state.handshake_done]
        closing = [one for one, state in handshaking if state.received > HANDSHAKE_BYTES_MAX]
        suspects = self._over_message_limit(now) | self._over_owner_limit(now)
        open_at = Counter(connection.port for connection in self.states)
        for connection, state in self.states.items():
            delivered = self._delivered[connection.port]
            if connection not in suspects or connection in closing:
                state.suspected_at = None
            elif connection.port not in busy and state.pending > MESSAGE_BYTES_MAX + KERNEL_BYTES_MAX:
                closing.append(connection)
            elif state.suspected_at is None:
                state.suspected_at = delivered
                self._sweep_at = self._measure_at = now + FAST_CHECK_S
            elif connection.port not in busy or delivered - state.suspected_at > open_at[connection.port]:
                closing.append(connection)
            else:
                self._sweep_at = self._measure_at = now + FAST_CHECK_S
        return closing

    def _over_message_limit(self, now: float) -> set[Connection]:
        return {
            connection
            for connection, state in self.states.items()
            if state.pending > MESSAGE_BYTES_MAX + DRIFT_BYTES_S * (now - state.opened)
        }

    def _over_owner_limit(self, now: float) -> set[Connection]:
        """Return the largest connections of each owner that exceeds the limit for all its connections."""
        owned: dict[bytes | None, list[tuple[Connection, ConnectionState]]] = defaultdict(list)
        for connection, state in self.states.items():
            if state.owner != b"":
                owned[state.owner].append((connection, state))
        over = set()
        for owner, connections in owned.items():
            allowed = UNKNOWN_BYTES_MAX if owner is None else OWNER_BYTES_MAX
            allowed += int(DRIFT_BYTES_S * sum(now - state.opened for _, state in connections))
            total = sum(state.pending for _, state in connections)
            for connection, state in sorted(connections, key=lambda one: -one[1].pending):
                if total <= allowed:
                    break
                total -= state.pending
                over.add(connection)
        return over
