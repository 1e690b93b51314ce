"""What all ends of the network have in common: a context, a poller, a way to be woken, an end.

Every limit is set on every socket: libzmq's own defaults are no limit on a frame's size, 1,000 messages per peer, and
lingering for ever. Knows nothing of who connects where.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import zmq

from fedmq.protocol.codec import FRAME_BYTES_MAX, Frames

QUEUE_MESSAGES_MAX = 10_000  # per peer and direction
HEARTBEAT_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 8_000  # a frame must pass within it; a peer that is cut off is noticed by then
CONNECT_MS = 2_000  # then tried anew: the kernel would wait twice as long each time, long after a cut has healed
HANDSHAKE_MS = 3_000
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1_000
BACKLOG = 4_096
LINGER_MS = 1_000
OVERHEAD_BYTES = 64  # that encryption adds to a frame
BATCH = 1_000  # messages taken in one `receive`


class Endpoint:
    """An end of the network, with its sockets; one thread owns it, any may wake it."""

    def __init__(self) -> None:
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._begin()

    def _begin(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._poller.register(self._waker, zmq.POLLIN)
        self._polled: list[zmq.Socket[bytes]] | None = None

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.sndhwm = socket.rcvhwm = QUEUE_MESSAGES_MAX
        socket.maxmsgsize = FRAME_BYTES_MAX + OVERHEAD_BYTES
        socket.linger = LINGER_MS
        socket.connect_timeout = CONNECT_MS
        socket.handshake_ivl = HANDSHAKE_MS
        socket.heartbeat_ivl = HEARTBEAT_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        # While bytes wait to be sent libzmq sends no heartbeat, and so misses nobody: the kernel has to.
        socket.setsockopt(zmq.TCP_MAXRT, HEARTBEAT_TIMEOUT_MS)
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        socket.backlog = BACKLOG
        self._sockets.append(socket)
        return socket

    def _monitor(self, socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
        """Where the events of a socket's connections are read."""
        monitor = socket.get_monitor_socket(events)
        self._sockets.append(monitor)
        self._poller.register(monitor, zmq.POLLIN)
        return monitor

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
        self._end()
        os.close(self._waker)

    def _end(self) -> None:
        for socket in self._sockets:
            if socket.type != zmq.PAIR:
                socket.disable_monitor()
            socket.close()
        self._context.term()


def take(socket: zmq.Socket[bytes]) -> list[bytes] | None:
    """One whole message, or None. Never blocks: a half-arrived message wakes a poll, too."""
    try:
        return socket.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


def drain(socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
    """Whole messages until there is none, or a batch is full."""
    for _ in range(BATCH):
        if (frames := take(socket)) is None:
            return
        yield frames


def give(socket: zmq.Socket[bytes], frames: Frames) -> bool:
    """Hand a message to the socket; False when it takes nothing now."""
    try:
        socket.send_multipart(frames, zmq.NOBLOCK)
    except zmq.Again:
        return False
    return True


def library() -> tuple[str, bool]:
    """The version of libzmq, and whether it can encrypt."""
    return zmq.zmq_version(), zmq.has("curve")
