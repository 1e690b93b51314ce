"""The edges' links as ZeroMQ sockets: they connect, to whatever stands at the broker's address.

Knows nothing of what is sent. With keys, every connection is encrypted to the broker whose key is pinned (CURVE).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from fedmq.protocol import topics
from fedmq.protocol.codec import Frames
from fedmq.transport.address import parse_address
from fedmq.transport.link import Delivered, LinkDown, LinkEvent, LinkRefused, LinkUp, Port
from fedmq.transport.zeromq.endpoint import Endpoint, drain, give

if TYPE_CHECKING:
    from fedmq.security.keyring import Credentials

REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
REFUSED_AGAIN_S = 1.0  # not at once: each attempt costs the broker a handshake
WATCHED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED | REFUSED


class TransportKeys(NamedTuple):
    """What a connection is made with: our key pair, and the broker's public key."""

    public: bytes
    secret: bytes
    broker: bytes


def keys_of(credentials: Credentials | None) -> TransportKeys | None:
    """A member's; None without keys."""
    if credentials is None:
        return None
    identity = credentials.identity
    return TransportKeys(identity.public.transport, identity.transport_secret, credentials.federation.broker_key)


class EdgeSockets(Endpoint):
    """An edge's end."""

    def __init__(self, address: str, keys: TransportKeys | None) -> None:
        self.host, self.port = parse_address(address)
        self._keys = keys
        self._targets: dict[zmq.Socket[bytes], str] = {}
        self._watches: list[zmq.Socket[bytes]] = []
        self._again_at: float | None = None  # after a refusal
        super().__init__()

    def _connect(self, socket: zmq.Socket[bytes], port: Port, events: int) -> None:
        """Connect, and watch these events of the connection."""
        self._watches.append(self._monitor(socket, events))
        if self._keys is not None:
            socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = self._keys
        self._targets[socket] = f"tcp://{self.host}:{self.port + port}"
        socket.connect(self._targets[socket])

    def wait(self, timeout_s: float | None) -> None:
        """See `Endpoint`; not beyond the next attempt to be let in."""
        if self._again_at is not None:
            pause_s = max(0.0, self._again_at - time.monotonic())
            timeout_s = pause_s if timeout_s is None else min(timeout_s, pause_s)
        super().wait(timeout_s)

    def _heard(self, socket: zmq.Socket[bytes]) -> Iterator[LinkEvent]:
        """Who came and went, and what came through this one socket."""
        ready = self._ready()
        yield from self._connections(ready)
        if socket in ready:
            yield from map(Delivered, drain(socket))

    def _connections(self, ready: list[zmq.Socket[bytes]]) -> Iterator[LinkEvent]:
        """What the monitors tell of the connections."""
        if self._again_at is not None and time.monotonic() >= self._again_at:
            self._again_at = None
            self._connect_again()
        for monitor in self._watches:
            if monitor in ready:
                for frames in drain(monitor):
                    yield self._news_of(parse_monitor_message(frames)["event"])

    def _news_of(self, event: int) -> LinkEvent:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            return LinkUp()
        if not event & REFUSED:
            return LinkDown()
        self._again_at = self._again_at or time.monotonic() + REFUSED_AGAIN_S
        return LinkRefused()

    def _connect_again(self) -> None:
        """Who is refused once may be let in later: libzmq itself never asks again."""
        for socket, target in self._targets.items():
            with suppress(zmq.ZMQError):  # there is nothing left to disconnect
                socket.disconnect(target)
            socket.connect(target)


class SubscriberSockets(EdgeSockets):
    """The link of who hears of runs: SUB for these topics, PUSH for what it says (only to a live connection)."""

    def __init__(self, address: str, *wants: str, credentials: Credentials | None = None) -> None:
        super().__init__(address, keys_of(credentials))
        self._down = self._socket(zmq.SUB)
        self._down.linger = 0  # nothing but subscriptions leaves through it
        self._up = self._socket(zmq.PUSH)
        self._up.immediate = True
        for topic in wants:
            self._down.subscribe(topic)
        self._poller.register(self._down, zmq.POLLIN)
        self._connect(self._up, Port.PUSH, REFUSED)
        self._connect(self._down, Port.SUBSCRIBE, WATCHED)

    def receive(self) -> Iterator[LinkEvent]:
        return self._heard(self._down)

    def send(self, frames: Frames) -> bool:
        return give(self._up, frames)


class TrainerSockets(SubscriberSockets):
    """A trainer's link: rounds, beacons and its inbox."""

    def __init__(self, address: str, name: str, credentials: Credentials | None = None) -> None:
        inbox = topics.inbox_of(name)  # to have it means "I am here"
        super().__init__(address, topics.ROUNDS, topics.BEACONS, inbox, credentials=credentials)


class ObserverSockets(EdgeSockets):
    """The link of who only watches: SUB for what happens in all runs, and nothing to speak through."""

    def __init__(self, address: str, token: str, credentials: Credentials | None = None) -> None:
        super().__init__(address, keys_of(credentials))
        self._down = self._socket(zmq.SUB)
        self._down.linger = 0
        for topic in (*topics.WATCHED, topics.watch_of(token)):
            self._down.subscribe(topic)
        self._poller.register(self._down, zmq.POLLIN)
        self._connect(self._down, Port.SUBSCRIBE, WATCHED)

    def receive(self) -> Iterator[LinkEvent]:
        return self._heard(self._down)

    def send(self, frames: Frames) -> bool:
        """See `network.Link`; nothing leaves."""
        return False


class AggregatorSockets(EdgeSockets):
    """An aggregator's link: XPUB for what it publishes, SUB for what the trainers of its run push.

    The broker's own subscription, seen through XPUB_VERBOSE, says that publications reach it from now on; it ends
    with the connection.
    """

    def __init__(self, address: str, run: str, credentials: Credentials | None = None) -> None:
        super().__init__(address, keys_of(credentials))
        self._down = self._socket(zmq.XPUB)
        self._down.xpub_verbose = True
        self._down.immediate = True  # else the subscription outlives the connection, and nobody hears that it is cut
        self._up = self._socket(zmq.SUB)
        self._up.subscribe(topics.up_to(run) + "/")
        self._up.subscribe(topics.PRESENCE)
        self._heard_of = False  # whether a broker has subscribed; XPUB drops what nobody has
        self._poller.register(self._down, zmq.POLLIN)
        self._poller.register(self._up, zmq.POLLIN)
        self._connect(self._up, Port.COLLECT, REFUSED)
        self._connect(self._down, Port.PUBLISH, REFUSED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL)

    def receive(self) -> Iterator[LinkEvent]:
        ready = self._ready()
        yield from self._connections(ready)
        if self._down in ready:
            for frames in drain(self._down):
                self._heard_of = frames[0][:1] == b"\x01"
                yield LinkUp() if self._heard_of else LinkDown()
        if self._up in ready:
            yield from map(Delivered, drain(self._up))

    def send(self, frames: Frames) -> bool:
        return self._heard_of and give(self._down, frames)


class JoinSockets(EdgeSockets):
    """The link of who asks for a place in a federation, with a key that is good for nothing else."""

    def __init__(self, address: str, keys: TransportKeys) -> None:
        super().__init__(address, keys)
        self._dealer = self._socket(zmq.DEALER)
        self._dealer.immediate = True
        self._poller.register(self._dealer, zmq.POLLIN)
        self._connect(self._dealer, Port.JOIN, WATCHED)

    def receive(self) -> Iterator[LinkEvent]:
        return self._heard(self._dealer)

    def send(self, frames: Frames) -> bool:
        return give(self._dealer, frames)
