"""What all ZeroMQ endpoints share: a context, a poller, a way to wake a wait, a close.

Every limit is set on every socket. The defaults of libzmq are no limit on the size of a frame, 1,000 messages per peer,
and unlimited lingering.
"""

import os
from collections.abc import Iterator

import zmq

from fedmq.protocol.codec import FRAME_BYTES_MAX, Frames
from fedmq.runtime.descriptors import require_descriptors

QUEUE_MESSAGES_MAX = 10_000  # per peer and direction
HEARTBEAT_MS = 1_000
HEARTBEAT_TIMEOUT_MS = 8_000  # a frame must arrive within it; so soon a disconnected peer is noticed
CONNECT_MS = 2_000  # then retry: the kernel doubles its waits, long after the network is repaired
HANDSHAKE_MS = 3_000
RECONNECT_MS, RECONNECT_MAX_MS = 100, 1_000
BACKLOG = 4_096
LINGER_MS = 1_000
OVERHEAD_BYTES = 64  # that encryption adds to a frame
BATCH = 1_000  # messages in one call of `receive`
# Plain integers: pyzmq's flags are enums, and combining these costs as much as sending a small frame.
NOBLOCK, _MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)


class Endpoint:
    """A context with its sockets. One thread owns it; any thread may call `wake`.

    Raises:
        BadConfiguration: too few `descriptors` are left. Without any, libzmq ends the process.
    """

    descriptors = 16  # of an edge: a context, two sockets with their monitors, and their connections

    def __init__(self) -> None:
        require_descriptors(self.descriptors)
        self._waker = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._open()

    def _open(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self._sockets: list[zmq.Socket[bytes]] = []
        self._poller.register(self._waker, zmq.POLLIN)
        self._polled: list[zmq.Socket[bytes]] | None = None

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.sndhwm = socket.rcvhwm = QUEUE_MESSAGES_MAX
        socket.maxmsgsize = FRAME_BYTES_MAX + OVERHEAD_BYTES  # libzmq applies it per frame
        socket.linger = LINGER_MS
        socket.connect_timeout = CONNECT_MS
        socket.handshake_ivl = HANDSHAKE_MS
        socket.heartbeat_ivl = HEARTBEAT_MS
        socket.heartbeat_timeout = HEARTBEAT_TIMEOUT_MS
        # While bytes wait to be sent, libzmq sends no heartbeat and so never times out. The kernel then has to.
        socket.setsockopt(zmq.TCP_MAXRT, HEARTBEAT_TIMEOUT_MS)
        socket.reconnect_ivl, socket.reconnect_ivl_max = RECONNECT_MS, RECONNECT_MAX_MS
        socket.backlog = BACKLOG
        self._sockets.append(socket)
        return socket

    def _monitor(self, socket: zmq.Socket[bytes], events: int) -> zmq.Socket[bytes]:
        """Return the socket that delivers these connection events of `socket`."""
        monitor = socket.get_monitor_socket(events)
        self._sockets.append(monitor)
        self._poller.register(monitor, zmq.POLLIN)
        return monitor

    def wait(self, timeout_s: float | None) -> None:
        """Wait until a socket is readable, `wake` is called, or `timeout_s` has passed (None: no timeout)."""
        ready = self._poller.poll(None if timeout_s is None else max(0, int(timeout_s * 1000 + 0.999)))
        self._polled = [socket for socket, _ in ready if socket != self._waker]
        if len(self._polled) < len(ready):
            os.eventfd_read(self._waker)

    def _ready(self) -> list[zmq.Socket[bytes]]:
        """Return the sockets that are readable; a part of a message counts.

        The result of the last `wait` is used once. A poll costs less than a failing receive on each socket.
        """
        polled, self._polled = self._polled, None
        if polled is not None:
            return polled
        return [socket for socket, _ in self._poller.poll(0) if socket != self._waker]

    def wake(self) -> None:
        """End a `wait`; callable from any thread and from signal handlers."""
        os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Close all sockets; queued messages are sent for at most `LINGER_MS`."""
        self._close_sockets()
        os.close(self._waker)

    def _close_sockets(self) -> None:
        for socket in self._sockets:
            if socket.type != zmq.PAIR:
                socket.disable_monitor()
            socket.close()
        self._context.term()


def receive_all(socket: zmq.Socket[bytes], most: int = BATCH) -> Iterator[list[bytes]]:
    """Yield at most so many complete messages. Never blocks: an incomplete message wakes a poll, too."""
    for count in range(most):
        try:
            frame = socket.recv(NOBLOCK, copy=False)  # as an object, which knows whether more follows
        except zmq.Again:
            return
        frames = [frame.bytes]
        while frame.more:
            frame = socket.recv(NOBLOCK, copy=False)
            frames.append(frame.bytes)
        yield frames
        if not count and not is_readable(socket):  # mostly it was one message, and an exception costs three times this
            return


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Return whether a message, or a part of one, has arrived."""
    return bool(int(socket.getsockopt(_EVENTS)) & _READABLE)


def try_send(socket: zmq.Socket[bytes], frames: Frames) -> bool:
    """Hand a message to the socket; return False if it accepts none now."""
    try:
        for frame in frames[:-1]:
            socket.send(frame, _MORE)
        socket.send(frames[-1], NOBLOCK)
    except zmq.Again:  # by the first frame: libzmq accepts a message as a whole
        return False
    return True


def library() -> tuple[str, bool]:
    """Return the version of libzmq, and whether it supports CURVE."""
    return zmq.zmq_version(), zmq.has("curve")
