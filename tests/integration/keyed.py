"""A federation with keys, its broker as a process, and raw peers at its ports. Every wait has a deadline."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zmq
from services import Services, until
from zmq.utils.monitor import parse_monitor_message

from fedmq.protocol.codec import encode
from fedmq.protocol.messages import Beacon
from fedmq.security.keyring import (
    MEMBERS,
    REVOKED,
    Credentials,
    FederationInfo,
    public_path,
    read_credentials,
    write_federation,
    write_identity,
    write_public,
)
from fedmq.security.keys import Identity
from fedmq.security.signing import TrainerSigning
from fedmq.transport.link import Port
from fedmq.transport.zeromq.edge import TransportKeys

WAIT_S = 30.0
REFUSALS = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
)


class Keyed:
    """The folders of a federation's services, and its broker; `services` runs them as processes."""

    def __init__(self, folder: Path, *members: str, run: str = "r") -> None:
        self.folder, self.keys, self.run = folder, folder / "keys", run
        self.services = Services(folder)
        self.port = self.services.port
        broker, aggregator = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
        self.federation = FederationInfo(
            os.urandom(16), f"tcp://127.0.0.1:{self.port}", broker.public.transport, aggregator.public
        )
        write_federation(self.keys, self.federation)
        write_identity(self.keys, broker)
        write_identity(self.keys, aggregator)
        self.of = {name: self.non_member(name) for name in members}
        for name in members:
            self.accept(name)
        self.of["aggregator"] = Credentials(self.federation, aggregator)

    def non_member(self, name: str) -> Credentials:
        """Create the keys of a trainer that is not a member, in a folder of its name."""
        write_federation(self.folder / name, self.federation)
        write_identity(self.folder / name, Identity.new("trainer", name))
        return read_credentials(self.folder / name, "trainer")

    def accept(self, name: str) -> None:
        write_public(self.keys, MEMBERS, self.of[name].identity.public)

    def revoke(self, name: str) -> None:
        public = self.of[name].identity.public
        target = public_path(self.keys, REVOKED, public)
        target.parent.mkdir(exist_ok=True)
        shutil.move(public_path(self.keys, MEMBERS, public), target)

    @contextmanager
    def running_broker(self) -> Iterator[int]:
        """The broker's process id, once it listens."""
        with self.services as services:
            services.start("broker", "broker", "--keys", str(self.keys), "--log-level", "info")
            until(lambda: "broker on" in services.out("broker"), "the broker to listen")
            yield services.running["broker"].pid
            assert services.running["broker"].poll() is None, services.err("broker")

    def transport(self, name: str) -> TransportKeys:
        """Return the keys of a member's connections."""
        credentials = self.of[name]
        public = credentials.identity.public.transport
        return TransportKeys(public, credentials.identity.transport_secret, self.federation.broker_key)

    def beacon(self, number: int, topic: str | None = None, signer: str = "aggregator") -> list[bytes]:
        """Return the frames of a beacon with the signature of `signer`."""
        message = Beacon(run=self.run, term=1, round=number, open=False)
        return encode(topic or f"beacon/{self.run}", message, sign=TrainerSigning(self.of[signer]).sign)


class Raw:
    """A bare socket at one of the broker's ports, with a monitor of its connection."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], kind: int, port: int, keys: TransportKeys | None
    ) -> None:
        self.socket = context.socket(kind)
        self.socket.linger = 0
        self.socket.sndtimeo = int(WAIT_S * 1000)
        self.socket.rcvhwm = self.socket.sndhwm = 0
        if kind == zmq.XPUB:
            self.socket.xpub_verbose = self.socket.immediate = True
        self.monitor = self.socket.get_monitor_socket(REFUSALS | zmq.EVENT_HANDSHAKE_SUCCEEDED)
        if keys is not None:
            self.socket.curve_publickey, self.socket.curve_secretkey, self.socket.curve_serverkey = keys
        self._target = f"tcp://127.0.0.1:{port}"

    def connect(self) -> None:
        self.socket.connect(self._target)

    def event(self, wanted: int, within_s: float = WAIT_S) -> int:
        """Wait for one of these events of the connection; return it."""
        give_up_at = time.monotonic() + within_s
        while self.monitor.poll(max(0, int(1000 * (give_up_at - time.monotonic())))):
            event = int(parse_monitor_message(self.monitor.recv_multipart())["event"])
            if event & wanted:
                return event
        raise AssertionError(f"expected an event of {wanted:#x} within {within_s:g} s, got none")

    def receive(self, within_s: float = WAIT_S) -> list[bytes] | None:
        """Return the next message, or None."""
        return self.socket.recv_multipart() if self.socket.poll(int(1000 * within_s)) else None

    def until(self, frames: list[bytes]) -> list[list[bytes]]:
        """Wait for `frames`; return the messages before them."""
        before = []
        while (received := self.receive()) != frames:
            assert received is not None, f"expected {frames} within {WAIT_S:g} s, got {before}"
            before.append(received)
        return before

    def close(self) -> None:
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


class Peers:
    """Raw peers of a broker; `close` closes all."""

    def __init__(self, keyed: Keyed) -> None:
        self._keyed, self._raw = keyed, list[Raw]()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def make(self, kind: int, port: Port, keys: TransportKeys | None, *topics: str, plain: bool = False) -> Raw:
        """Return a peer that connects and subscribes to `topics`."""
        raw = Raw(self._context, kind, self._keyed.port + port, keys)
        if plain:
            raw.socket.plain_username, raw.socket.plain_password = b"aggregator", b"aggregator"
        self._raw.append(raw)
        raw.connect()
        for topic in topics:
            raw.socket.subscribe(topic) if kind == zmq.SUB else raw.socket.send(b"\x01" + topic.encode())
        return raw

    def member(self, name: str, kind: int, port: Port, *topics: str) -> Raw:
        """Return a peer with the key of a service, once it is connected."""
        raw = self.make(kind, port, self._keyed.transport(name), *topics)
        raw.event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        return raw

    def close(self) -> None:
        for raw in self._raw:
            raw.close()
        self._context.term()


@contextmanager
def peers_of(keyed: Keyed) -> Iterator[Peers]:
    """Yield the raw peers of a broker; close them at the end."""
    peers = Peers(keyed)
    try:
        yield peers
    finally:
        peers.close()
