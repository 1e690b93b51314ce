"""An observer's key at a real broker: it receives every run and can do nothing else, until it is revoked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
from keyed import REFUSALS, Keyed, Peers, peers_of

from fedmq.security import membership
from fedmq.security.keyring import Credentials, find_broker_to_watch
from fedmq.transport.link import Delivered, LinkEvent, LinkRefused, LinkUp, Port
from fedmq.transport.zeromq import ObserverSockets

DEADLINE_S = 30.0
REVOKED_S = 10.0  # without a load it takes at most one (test_keys.py)
KINDS = {Port.PUBLISH: zmq.XPUB, Port.PUSH: zmq.PUSH, Port.COLLECT: zmq.XSUB, Port.JOIN: zmq.DEALER}


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A federation of alice, whose broker runs."""
    federation = Keyed(tmp_path_factory.mktemp("federation"), "alice")
    with federation.running_broker():
        yield federation


@pytest.fixture
def peers(keyed: Keyed) -> Iterator[Peers]:
    with peers_of(keyed) as made:
        yield made


@contextmanager
def observer(keyed: Keyed, name: str) -> Iterator[ObserverSockets]:
    """Yield the link of a new observer; `keyed` has its credentials by its name."""
    membership.add_observer(keyed.keys, name, keyed.folder / name)
    address, credentials = find_broker_to_watch(None, keyed.folder / name)
    assert credentials is not None
    keyed.of[name] = Credentials(keyed.federation, credentials.identity)
    link = ObserverSockets(address, name, credentials)
    try:
        yield link
    finally:
        link.close()


def until(link: ObserverSockets, wanted: LinkEvent) -> list[LinkEvent]:
    """Wait for `wanted`, or for an event of its type if it is not a message; return all events."""
    received: list[LinkEvent] = []
    give_up_at = time.monotonic() + DEADLINE_S
    while wanted not in received and not (not isinstance(wanted, Delivered) and type(wanted) in map(type, received)):
        assert time.monotonic() < give_up_at, f"expected {wanted}, got {received}"
        link.wait(0.1)
        received += link.receive()
    return received


def test_observer_receives_events_and_the_newest_snapshot_of_each_run(keyed: Keyed, peers: Peers) -> None:
    above = peers.member("aggregator", zmq.XPUB, Port.PUBLISH)
    assert above.receive() == [b"\x01"]  # the broker forwards what is published from now on
    with observer(keyed, "early") as early:
        give_up_at = time.monotonic() + DEADLINE_S
        while Delivered([b"snapshot/r", b"snapshot"]) not in early.receive():  # until it has subscribed
            assert time.monotonic() < give_up_at
            above.socket.send_multipart([b"snapshot/r", b"snapshot"])
            early.wait(0.1)
    with observer(keyed, "wall") as wall:
        until(wall, Delivered([b"watch/wall/", b"snapshot"]))
        above.socket.send_multipart([b"event/r", b"event"])
        until(wall, Delivered([b"event/r", b"event"]))
        above.socket.send_multipart([b"to/wall/", b"private"])
        above.socket.send_multipart([b"beacon/r", b"last"])
        assert Delivered([b"to/wall/", b"private"]) not in until(wall, Delivered([b"beacon/r", b"last"]))


def test_trainer_receives_no_events_and_no_snapshots(keyed: Keyed, peers: Peers) -> None:
    above = peers.member("aggregator", zmq.XPUB, Port.PUBLISH)
    assert above.receive() == [b"\x01"]
    above.socket.send_multipart([b"snapshot/r", b"before"])
    wants = ("event/", "snapshot/", "event/r", "watch/x/", "watch/alice/", "beacon/")
    receives = peers.member("alice", zmq.XSUB, Port.SUBSCRIBE, *wants)
    give_up_at = time.monotonic() + DEADLINE_S
    while receives.receive(0.1) is None:  # subscriptions are ordered: the last one is active after all others
        assert time.monotonic() < give_up_at
        above.socket.send_multipart([b"beacon/r", b"again"])
    for topic in (b"event/r", b"snapshot/r", b"watch/x/", b"watch/alice/"):
        above.socket.send_multipart([topic, b"event"])
    above.socket.send_multipart([b"beacon/r", b"last"])
    assert {tuple(frames) for frames in receives.until([b"beacon/r", b"last"])} <= {(b"beacon/r", b"again")}


@pytest.mark.parametrize("port", KINDS)
def test_observer_is_refused_at_every_other_port(keyed: Keyed, peers: Peers, port: Port) -> None:
    with observer(keyed, f"olga-{port.name}") as link:
        until(link, LinkUp())
        wrong = peers.make(KINDS[port], port, keyed.transport(f"olga-{port.name}"))
        if port is Port.COLLECT:
            wrong.socket.send(b"\x01")
        assert wrong.event(REFUSALS)
        assert wrong.receive(0) is None


def test_message_of_an_observer_is_dropped_and_its_key_blocked(keyed: Keyed, peers: Peers) -> None:
    receives = peers.member("alice", zmq.XSUB, Port.SUBSCRIBE, "beacon/")
    with observer(keyed, "loud") as link:
        until(link, LinkUp())
        loud = peers.member("loud", zmq.XSUB, Port.SUBSCRIBE, "event/")
        loud.socket.send_multipart([b"beacon/r", b"evil"])
        loud.event(zmq.EVENT_DISCONNECTED)
        loud.event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    assert receives.receive(0) is None


def test_observer_has_no_inbox(keyed: Keyed, peers: Peers) -> None:
    with observer(keyed, "nosy") as link:
        until(link, LinkUp())
        peers.member("nosy", zmq.XSUB, Port.SUBSCRIBE, "to/alice/").event(zmq.EVENT_DISCONNECTED)


def test_revoked_observer_is_disconnected(keyed: Keyed, peers: Peers) -> None:
    with observer(keyed, "gone") as link:
        until(link, LinkUp())
        subscribes = peers.member("gone", zmq.XSUB, Port.SUBSCRIBE, "event/")
        membership.revoke_member(keyed.keys, "gone", time.time())
        subscribes.event(zmq.EVENT_DISCONNECTED, REVOKED_S)
        subscribes.event(REFUSALS & ~zmq.EVENT_DISCONNECTED)
        until(link, LinkRefused())
        assert subscribes.receive(0) is None
