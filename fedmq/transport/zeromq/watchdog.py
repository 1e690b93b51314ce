"""The watchdog: cuts a connection over which bytes come and no message is ever whole.

libzmq bounds a frame (MAXMSGSIZE) and counts whole messages (HWM), but keeps the parts of a message that has no end in
memory, as many as come. The kernel knows how much came over each connection (TCP_INFO), and we know how much of it was
handed to us; what lies between is held for a message that is not whole, or waits for us whole. The latter is seen when
we take it: nobody is cut on the first suspicion. Knows nothing of keys or topics.
"""

from __future__ import annotations

import ctypes
import resource
import socket
import struct
from collections import Counter, defaultdict
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedmq.protocol.codec import MESSAGE_BYTES_MAX
from fedmq.transport.link import Port

LOOK_S = 0.05  # between looks at the memory of this process,
QUICK_S = 0.002  # and while it grows, or somebody is in the middle of a handshake
SWEEP_S = 1.0  # between looks at all connections when it does not grow
GROWTH_BYTES = 1 << 19  # of the process, that is a reason to look at all connections
HANDSHAKE_BYTES_MAX = 8 << 10  # a CURVE handshake takes less than 2 KiB
# What we have said by the end of a CURVE handshake (RFC 26): greeting 64, WELCOME 170, READY more than 60; before it
# not even an ERROR makes it so much. The peer's kernel has acknowledged that before the peer can say anything else.
SHAKEN_BYTES = 256
OWNER_BYTES_MAX = 2 * MESSAGE_BYTES_MAX  # that all connections of one key may hold back,
UNKNOWN_BYTES_MAX = 4 * MESSAGE_BYTES_MAX  # and all those together over which nothing whole has come yet
KERNEL_BYTES_MAX = 16 << 20  # that have come and that libzmq has not read yet: tcp_rmem allows 6 MiB by default
DRIFT_BYTES_S = 1024  # heartbeats and the like: bytes that are never part of a message
_ACKED_AT, _RECEIVED_AT = 120, 128  # tcpi_bytes_acked and _received in struct tcp_info, linux/tcp.h, since Linux 4.1
_TCP_INFO_BYTES = 256
_M_MMAP_THRESHOLD = -3  # malloc.h
_PAGE_BYTES = resource.getpagesize()
_STATM = Path("/proc/self/statm")


class Passed(NamedTuple):
    """How many bytes have come over a TCP connection, and how many of ours the other end has acknowledged."""

    received: int
    acknowledged: int


def bytes_passed(descriptor: int) -> Passed | None:
    """What has passed over this TCP connection; None when it is not one (any more)."""
    try:
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    except OSError:
        return None
    try:
        info = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    except OSError:
        return None
    finally:
        end.detach()
    if len(info) < _RECEIVED_AT + 8:
        return None
    acknowledged, received = struct.unpack_from("<QQ", info, _ACKED_AT)
    return Passed(received, acknowledged)


def shut_down(descriptor: int) -> None:
    """End a TCP connection; whoever owns the descriptor notices, and closes it. Nothing, if it has ended by itself."""
    with suppress(OSError):
        end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
        try:
            end.shutdown(socket.SHUT_RDWR)
        finally:
            end.detach()


def memory_bytes() -> int:
    """What this process holds in memory now."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES


def give_back_memory() -> None:
    """Let the allocator return large pieces to the system when they are freed, as it does with the first one.

    Else it keeps tens of megabytes of what a flood took, and the next flood is not seen to grow in them. Another C
    library than glibc may have nothing of that kind, and needs it less.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, GROWTH_BYTES)


class Connection(NamedTuple):
    """A connection that was accepted; its descriptor is another's once it has ended."""

    port: Port
    descriptor: int


@dataclass
class Held:
    """What is known of one connection, and what it holds back."""

    opened: float
    shaken: bool = False  # its handshake is over
    owner: bytes | None = None  # whose it is; known once a whole message has come over it
    pending: int = 0  # bytes that may be parts of a message that is not whole
    received: int = 0  # at the last look
    whole: int | None = None  # bytes of the messages that were taken since; None: no message was
    suspected_at: int | None = None  # how many messages had been taken at its port when it first held back too much

    def measure(self, passed: Passed | None) -> None:
        """Take note of what has passed over it."""
        if passed is None or passed.received < self.received:  # it ended, and the descriptor may be another's
            self.received, self.pending = 0 if passed is None else passed.received, 0
        else:
            came, self.received = passed.received - self.received, passed.received
            self.pending += came
            if self.whole is not None:  # what came before the last look was part of that message, or of one before it
                self.pending = min(came, max(0, self.pending - self.whole))
                self.suspected_at = None
            self.shaken = self.shaken or passed.acknowledged >= SHAKEN_BYTES
        self.whole = None


class Watchdog:
    """All connections of a process, and how much each holds back: `look`, and then `judge`, now and then.

    `handshakes`: whether connections begin with one that says who it is. `passed` and `memory` stand in for the kernel
    in tests.
    """

    def __init__(
        self,
        *,
        handshakes: bool = True,
        passed: Callable[[int], Passed | None] = bytes_passed,
        memory: Callable[[], int] = memory_bytes,
    ) -> None:
        self.held: dict[Connection, Held] = {}
        self._handshakes, self._passed, self._memory = handshakes, passed, memory
        self._look_at = self._sweep_at = 0.0
        self._memory_then = memory()
        self._young = 0  # connections whose handshake may not be over
        self._taken: Counter[Port] = Counter()

    def opened(self, connection: Connection, now: float) -> None:
        """A connection was accepted."""
        self.held[connection] = Held(now, shaken=not self._handshakes)
        self._young += self._handshakes
        self._look_at = min(self._look_at, now + self.pause_s)

    def closed(self, connection: Connection) -> None:
        """It has ended."""
        self.held.pop(connection, None)

    def delivered(self, connection: Connection, owner: bytes, size: int) -> None:
        """A whole message of `size` bytes came over it, from `owner` (b"": nobody knows)."""
        self._taken[connection.port] += 1
        if (held := self.held.get(connection)) is not None:
            held.owner, held.whole = owner, size + (held.whole or 0)

    @property
    def pause_s(self) -> float:
        """How long to wait for the next look, at the most."""
        return QUICK_S if self._young else LOOK_S

    def look(self, now: float) -> bool:
        """Look at the kernel's figures, when it is time to; whether to `judge` now."""
        if now < self._look_at:
            return False
        memory = self._memory()
        self._memory_then = min(self._memory_then, memory)  # what was given back may be taken again
        self._look_at = now + self.pause_s
        if now < self._sweep_at and memory < self._memory_then + GROWTH_BYTES:
            return False
        if memory >= self._memory_then + GROWTH_BYTES:
            self._look_at = now + QUICK_S
        self._sweep_at, self._memory_then = now + SWEEP_S, memory
        for connection, held in self.held.items():
            held.measure(self._passed(connection.descriptor))
        self._young = sum(not held.shaken for held in self.held.values())
        return True

    def judge(self, now: float, busy: Collection[Port] = ()) -> list[Connection]:
        """The connections to cut; at `busy` ports something whole waits to be taken.

        One that holds back too much is suspected first: what was whole is taken in the meantime. On a busy port, that
        is when every connection has had its turn. Far too much at a port that is not busy is beyond doubt.
        """
        cut = [one for one, held in self.held.items() if not held.shaken and held.received > HANDSHAKE_BYTES_MAX]
        suspects = self._endless(now) | self._greedy(now)
        here = Counter(connection.port for connection in self.held)
        for connection, held in self.held.items():
            taken = self._taken[connection.port]
            if connection not in suspects or connection in cut:
                held.suspected_at = None
            elif connection.port not in busy and held.pending > MESSAGE_BYTES_MAX + KERNEL_BYTES_MAX:
                cut.append(connection)
            elif held.suspected_at is None:
                held.suspected_at = taken
                self._sweep_at = self._look_at = now + QUICK_S
            elif connection.port not in busy or taken - held.suspected_at > here[connection.port]:
                cut.append(connection)
            else:
                self._sweep_at = self._look_at = now + QUICK_S
        return cut

    def _endless(self, now: float) -> set[Connection]:
        return {
            connection
            for connection, held in self.held.items()
            if held.pending > MESSAGE_BYTES_MAX + DRIFT_BYTES_S * (now - held.opened)
        }

    def _greedy(self, now: float) -> set[Connection]:
        """Of each owner's connections the largest, as many as are over what all of them may hold back."""
        owned: dict[bytes | None, list[tuple[Connection, Held]]] = defaultdict(list)
        for connection, held in self.held.items():
            if held.owner != b"":
                owned[held.owner].append((connection, held))
        greedy = set()
        for owner, those in owned.items():
            allowed = UNKNOWN_BYTES_MAX if owner is None else OWNER_BYTES_MAX
            allowed += int(DRIFT_BYTES_S * sum(now - held.opened for _, held in those))
            total = sum(held.pending for _, held in those)
            for connection, held in sorted(those, key=lambda one: -one[1].pending):
                if total <= allowed:
                    break
                total -= held.pending
                greedy.add(connection)
        return greedy
