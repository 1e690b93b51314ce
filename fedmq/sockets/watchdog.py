"""The watchdog: cuts a connection over which bytes come and no message is ever whole.

libzmq bounds a frame (MAXMSGSIZE) and counts whole messages (HWM), but keeps the parts of a message that has no end in
memory, as many as come. The kernel knows how much came over each connection (TCP_INFO), and we know how much of it was
handed to us; what lies between is held for a message that is not whole. Knows nothing of keys or topics.
"""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fedmq.network import Port
from fedmq.wire import MESSAGE_BYTES_MAX

LOOK_S = 0.05  # between looks while memory grows,
SWEEP_S = 1.0  # and when it does not
GROWTH_BYTES = 8 << 20  # of the process, that is a reason to look
STRANGERS_BYTES_MAX = 2 * MESSAGE_BYTES_MAX  # of all connections together that have not sent any whole message
DRIFT_BYTES_S = 1024  # heartbeats and the like: bytes that are never part of a message
_RECEIVED_AT = 128  # tcpi_bytes_received in struct tcp_info, linux/tcp.h, since Linux 4.1
_TCP_INFO_BYTES = 256
_PAGE_BYTES = resource.getpagesize()
_STATM = Path("/proc/self/statm")


def bytes_received(descriptor: int) -> int | None:
    """How many bytes have come over this TCP connection; None when it is not one (any more)."""
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
    return int(struct.unpack_from("<Q", info, _RECEIVED_AT)[0]) if len(info) >= _RECEIVED_AT + 8 else None


def shut_down(descriptor: int) -> None:
    """End a TCP connection; whoever owns the descriptor notices, and closes it."""
    end = socket.socket(socket.AF_INET, socket.SOCK_STREAM, fileno=descriptor)
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended by itself
    finally:
        end.detach()


def memory_bytes() -> int:
    """What this process holds in memory now."""
    return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES


class Connection(NamedTuple):
    """A connection that was accepted; its descriptor is another's once it has ended."""

    port: Port
    descriptor: int


@dataclass
class Held:
    """What is known of one connection, and what it holds back."""

    opened: float
    accounted: int = 0  # bytes that belong to whole messages, as far as is known
    received: int = 0  # at the last look
    known: bool = False  # a whole message has come over it
    delivered: bool = False  # since the last look

    @property
    def pending(self) -> int:
        """Bytes that may be parts of a message that is not whole."""
        return self.received - self.accounted


class Watchdog:
    """All connections of a process, and how much each holds back; `look` now and then.

    `received` and `memory` stand in for the kernel in tests.
    """

    def __init__(
        self,
        received: Callable[[int], int | None] = bytes_received,
        memory: Callable[[], int] = memory_bytes,
    ) -> None:
        self.held: dict[Connection, Held] = {}
        self._received, self._memory = received, memory
        self._look_at = self._sweep_at = 0.0
        self._memory_then = memory()

    def opened(self, connection: Connection, now: float) -> None:
        """A connection was accepted."""
        self.held[connection] = Held(now)

    def closed(self, connection: Connection) -> None:
        """It has ended."""
        self.held.pop(connection, None)

    def delivered(self, connection: Connection) -> None:
        """A whole message came over it."""
        if (held := self.held.get(connection)) is not None:
            held.known = held.delivered = True

    def look(self, now: float) -> list[Connection]:
        """The connections that are to be cut now, when it is time to look."""
        if now < self._look_at:
            return []
        self._look_at = now + LOOK_S
        memory = self._memory()
        if now < self._sweep_at and memory < self._memory_then + GROWTH_BYTES:
            return []
        self._sweep_at, self._memory_then = now + SWEEP_S, memory
        for connection, held in self.held.items():
            self._measure(connection.descriptor, held)
        endless = self._endless(now)
        return endless + [one for one in self._strangers(now) if one not in endless]

    def _measure(self, descriptor: int, held: Held) -> None:
        received = self._received(descriptor)
        if received is None or received < held.received:  # it ended, and the descriptor may be another's
            held.received = held.accounted = received or 0
            return
        if held.delivered:  # what came before the last look was part of that message, or of one before it
            held.accounted, held.delivered = held.received, False
        held.received = received

    def _endless(self, now: float) -> list[Connection]:
        return [
            connection
            for connection, held in self.held.items()
            if held.pending > MESSAGE_BYTES_MAX + DRIFT_BYTES_S * (now - held.opened)
        ]

    def _strangers(self, now: float) -> list[Connection]:
        """The largest of those that never sent anything whole, as many as are over what all of them may hold."""
        strangers = sorted((one for one in self.held.items() if not one[1].known), key=lambda one: -one[1].pending)
        allowed = STRANGERS_BYTES_MAX + DRIFT_BYTES_S * sum(now - held.opened for _, held in strangers)
        total, cut = sum(held.pending for _, held in strangers), []
        for connection, held in strangers:
            if total <= allowed:
                break
            total -= held.pending
            cut.append(connection)
        return cut
