"""Raw peers with wrong credentials at a real broker with keys: they send and receive nothing.

Peers with right credentials are served at the same time, so that each of these tests can fail.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import zmq
from keyed import REFUSALS, WAIT_S, Keyed, Peers, peers_of
from msgspec import structs

from fedmq.broker.access_control import KeyAccessControl
from fedmq.protocol import topics
from fedmq.protocol.codec import encode
from fedmq.protocol.messages import Goodbye, Hello, Presence
from fedmq.runtime.clock import SystemClock
from fedmq.security.keyring import Members, read_credentials
from fedmq.security.keys import Identity
from fedmq.security.signing import TrainerSigning
from fedmq.transport.link import LinkDown, LinkEvent, LinkRefused, LinkUp, Port
from fedmq.transport.zeromq import AggregatorSockets, BrokerSockets, TrainerSockets
from fedmq.transport.zeromq.broker import TOPICS_MAX
from fedmq.transport.zeromq.edge import SubscriberSockets, TransportKeys

REVOKED_S = 10.0  # without a load it takes at most one (test_keys.py)
KINDS = {Port.PUBLISH: zmq.XPUB, Port.SUBSCRIBE: zmq.XSUB, Port.PUSH: zmq.PUSH, Port.COLLECT: zmq.XSUB}
KINDS[Port.JOIN] = zmq.DEALER


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[Keyed]:
    """A federation of alice, al and mallory, whose broker runs."""
    federation = Keyed(tmp_path, "alice", "al", "mallory")
    with federation.running_broker():
        yield federation


@pytest.fixture
def peers(keyed: Keyed) -> Iterator[Peers]:
    with peers_of(keyed) as made:
        yield made


class Honest:
    """An aggregator and alice, as raw peers that receive everything from the broker."""

    def __init__(self, keyed: Keyed, peers: Peers) -> None:
        self._keyed, self._number = keyed, 0
        self.above = peers.member("aggregator", zmq.XPUB, Port.PUBLISH)
        assert self.above.receive() == [b"\x01"]  # the broker forwards what is published from now on
        self.collects = peers.member("aggregator", zmq.XSUB, Port.COLLECT, "", "presence/")
        self.receives = peers.member("alice", zmq.XSUB, Port.SUBSCRIBE, "round/", "beacon/", "event/", "to/alice/")
        self.pushes = peers.member("alice", zmq.PUSH, Port.PUSH)
        self.until_present("alice")

    def until_present(self, name: str) -> None:
        """Wait until the broker reports that a trainer is present."""
        wanted = encode(f"presence/{name}", Presence(trainer=name, present=True, inboxes=1))
        self.collects.until(wanted)

    def are_served(self) -> tuple[list[list[bytes]], list[list[bytes]]]:
        """Send a message in each direction; return what alice and the aggregator received before it."""
        self._number += 1
        marker = b"honest %d" % self._number
        self.above.socket.send_multipart([b"beacon/honest", marker])
        below = self.receives.until([b"beacon/honest", marker])
        self.pushes.socket.send_multipart([b"up/r", marker])
        came = self.collects.until([b"up/r/alice", marker])
        return below, [frames for frames in came if not frames[0].startswith(b"presence/")]


def revoked(keyed: Keyed) -> TransportKeys:
    keyed.revoke("mallory")
    return keyed.transport("mallory")


def unknown(keyed: Keyed) -> TransportKeys:
    keys = Identity.new("trainer", "alice")  # with the right name
    return TransportKeys(keys.public.transport, keys.transport_secret, keyed.federation.broker_key)


def other_broker(keyed: Keyed) -> TransportKeys:
    """A member's key, with another broker's key, as a member of another federation has."""
    other = Identity.new("broker", "broker").public.transport
    return keyed.transport("alice")._replace(broker=other)


WRONG = {
    "no key": lambda keyed: None,
    "a password": lambda keyed: None,
    "an unknown key": unknown,
    "a revoked key": revoked,
    "a key for another broker": other_broker,
}
MESSAGES = {
    Port.PUBLISH: [b"round/r", b"evil"],
    Port.SUBSCRIBE: [b"evil"],
    Port.PUSH: [b"up/r", b"evil"],
    Port.COLLECT: [b"evil"],
    Port.JOIN: [b"evil"],
}


@pytest.mark.parametrize("variant", WRONG)
def test_wrong_credentials_send_and_receive_nothing_at_any_port(keyed: Keyed, peers: Peers, variant: str) -> None:
    keys = WRONG[variant](keyed)
    if variant == "a revoked key":
        until_known_as_revoked(keyed)
    honest = Honest(keyed, peers)
    wrong = [peers.make(kind, port, keys, plain=variant == "a password") for port, kind in KINDS.items()]
    for port, raw in zip(KINDS, wrong, strict=True):
        if KINDS[port] == zmq.XSUB:
            for topic in (b"", b"round/", b"to/", b"to/alice/", b"up/"):
                raw.socket.send(b"\x01" + topic)
        try:  # it waits for a connection that is never made, or nothing receives it
            raw.socket.send_multipart(MESSAGES[port], zmq.NOBLOCK)
        except zmq.Again:
            continue
    for raw in wrong:
        raw.event(REFUSALS)
    below, above = honest.are_served()
    again = honest.are_served()
    assert [frames for frames in below + above + again[0] + again[1] if b"evil" in frames] == []
    assert [raw.receive(0) for raw in wrong] == [None] * len(wrong)


def test_broker_without_its_authenticator_refuses_every_connection(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, "alice")
    access = KeyAccessControl(read_credentials(keyed.keys, "broker"), Members(keyed.keys), SystemClock())
    hub = BrokerSockets("127.0.0.1", keyed.port, access)
    with closing(hub), peers_of(keyed) as peers:
        assert hub._authenticator is not None
        hub._authenticator.stop()
        alice = peers.make(zmq.PUSH, Port.PUSH, keyed.transport("alice"))
        assert alice.event(REFUSALS | zmq.EVENT_HANDSHAKE_SUCCEEDED) & REFUSALS


def until_known_as_revoked(keyed: Keyed) -> None:
    give_up_at = time.monotonic() + REVOKED_S
    while "mallory" not in keyed.services.err("broker"):
        assert time.monotonic() < give_up_at, "the broker has not read the revocation"


@pytest.mark.parametrize("port", [Port.PUBLISH, Port.COLLECT])
def test_key_of_a_trainer_is_refused_at_the_ports_of_the_aggregator(keyed: Keyed, peers: Peers, port: Port) -> None:
    honest = Honest(keyed, peers)
    wrong = peers.make(KINDS[port], port, keyed.transport("mallory"))
    if port is Port.COLLECT:
        wrong.socket.send(b"\x01")
    assert wrong.event(REFUSALS)
    below, above = honest.are_served()
    assert below + above == []
    assert wrong.receive(0) is None


def test_round_signed_and_sent_by_a_trainer_is_not_delivered(keyed: Keyed, peers: Peers) -> None:
    honest = Honest(keyed, peers)
    pushes = peers.member("mallory", zmq.PUSH, Port.PUSH)
    subscribes = peers.member("mallory", zmq.XSUB, Port.SUBSCRIBE, "beacon/")
    forged = keyed.beacon(9, signer="mallory")
    for topic in (b"beacon/r", b"round/r", b"to/alice/", b"event/r", b"presence/alice"):
        pushes.socket.send_multipart([topic, *forged[1:]])
    subscribes.socket.send_multipart(forged)  # as an XSUB socket can
    subscribes.event(zmq.EVENT_DISCONNECTED)
    pushes.socket.send_multipart([b"up/r", b"last"])  # dropped: the key is blocked
    below, above = honest.are_served()
    assert below + above == []


@pytest.mark.parametrize("topic", ["", "t", "to", "to/", "to/al", "r", "up/", "presence/", "/", "to/al/x"])
def test_subscription_to_a_prefix_receives_nothing_more(keyed: Keyed, peers: Peers, topic: str) -> None:
    honest = Honest(keyed, peers)
    al = peers.member("al", zmq.XSUB, Port.SUBSCRIBE, topic, "to/al/")
    honest.until_present("al")
    for inbox in (b"to/alice/", b"to/al/"):
        honest.above.socket.send_multipart([inbox, b"for its owner"])
    assert al.until([b"to/al/", b"for its owner"]) == []
    assert honest.are_served() == ([[b"to/alice/", b"for its owner"]], [])


@pytest.mark.parametrize("name", ["mallory", "aggregator"])
def test_trainer_that_subscribes_to_another_inbox_is_blocked(keyed: Keyed, peers: Peers, name: str) -> None:
    honest = Honest(keyed, peers)
    wrong = peers.make(zmq.XSUB, Port.SUBSCRIBE, keyed.transport(name), "to/al/")
    wrong.event(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    wrong.event(zmq.EVENT_DISCONNECTED)
    if name == "mallory":
        wrong.event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        honest.above.socket.send_multipart([b"to/al/", b"private"])
        assert honest.are_served() == ([], [])
    assert wrong.receive(0) is None


def test_key_of_the_aggregator_has_no_inbox(keyed: Keyed, peers: Peers) -> None:
    honest = Honest(keyed, peers)
    client = peers.make(zmq.XSUB, Port.SUBSCRIBE, keyed.transport("aggregator"), "beacon/", "to/aggregator/")
    client.event(zmq.EVENT_DISCONNECTED)
    honest.pushes.socket.send_multipart([b"up/r", b"end"])
    came = honest.collects.until([b"up/r/alice", b"end"])
    assert encode("presence/aggregator", Presence(trainer="aggregator", present=True, inboxes=1)) not in came


def test_connection_with_too_many_subscriptions_is_closed(keyed: Keyed, peers: Peers) -> None:
    honest = Honest(keyed, peers)
    wants = [topics.BEACONS + f"run-{number}" for number in range(TOPICS_MAX)]
    al = peers.member("al", zmq.XSUB, Port.SUBSCRIBE, *wants[1:], "to/al/")
    honest.until_present("al")
    al.socket.send(b"\x01" + wants[0].encode())
    al.event(zmq.EVENT_DISCONNECTED)
    al.event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
    assert honest.are_served() == ([], [])


def test_trainer_cannot_end_the_presence_of_another(keyed: Keyed, peers: Peers) -> None:
    honest = Honest(keyed, peers)
    mallory = peers.member("mallory", zmq.XSUB, Port.SUBSCRIBE, "to/mallory/")
    honest.until_present("mallory")
    for topic in (b"to/alice/", b"round/", b"beacon/", b"", b"to/mallory/"):
        mallory.socket.send(b"\x00" + topic)
    mallory.socket.send(b"\x01beacon/")
    honest.above.socket.send_multipart([b"to/alice/", b"still there"])
    assert honest.are_served() == ([[b"to/alice/", b"still there"]], [])


def test_repeated_subscription_gives_no_second_presence_and_no_copy(keyed: Keyed, peers: Peers) -> None:
    honest = Honest(keyed, peers)
    honest.above.socket.send_multipart([b"round/r", b"one"])
    honest.receives.until([b"round/r", b"one"])
    al = peers.member("al", zmq.XSUB, Port.SUBSCRIBE, *["to/al/"] * 5, "beacon/")
    honest.until_present("al")
    honest.above.socket.send_multipart([b"to/al/", b"marker"])
    assert al.until([b"to/al/", b"marker"]) == [[b"to/al/", b"one"]]
    al.close()
    honest.collects.until(encode("presence/al", Presence(trainer="al", present=False)))
    assert honest.are_served() == ([], [])


def test_message_over_an_open_connection_is_refused_after_a_revocation(keyed: Keyed, peers: Peers) -> None:
    honest = Honest(keyed, peers)
    pushes = peers.member("mallory", zmq.PUSH, Port.PUSH)
    pushes.socket.send_multipart([b"up/r", b"before"])
    honest.collects.until([b"up/r/mallory", b"before"])
    keyed.revoke("mallory")
    until_known_as_revoked(keyed)
    pushes.event(REFUSALS)
    with suppress(zmq.Again):
        pushes.socket.send_multipart([b"up/r", b"after"], zmq.NOBLOCK)
    below, above = served_undisturbed(honest)
    assert b"after" not in [frames[-1] for frames in below + above]


def served_undisturbed(honest: Honest) -> tuple[list[list[bytes]], list[list[bytes]]]:
    """Serve the honest peers; check that no connection of theirs has ended."""
    served = honest.are_served()
    for raw in (honest.above, honest.collects, honest.receives, honest.pushes):
        assert not raw.monitor.poll(0), "a connection of another key has ended"
    return served


def test_subscriber_receives_nothing_after_a_revocation(keyed: Keyed, peers: Peers) -> None:
    honest = Honest(keyed, peers)
    subscribes = peers.member("mallory", zmq.XSUB, Port.SUBSCRIBE, "beacon/", "to/mallory/")
    honest.until_present("mallory")
    honest.above.socket.send_multipart([b"beacon/r", b"before"])
    assert subscribes.receive() == [b"beacon/r", b"before"]
    keyed.revoke("mallory")
    subscribes.event(zmq.EVENT_DISCONNECTED, REVOKED_S)
    subscribes.event(REFUSALS & ~zmq.EVENT_DISCONNECTED)
    served_undisturbed(honest)
    assert subscribes.receive(0) is None


def test_message_in_another_name_is_delivered_with_its_real_sender(keyed: Keyed, peers: Peers) -> None:
    """The broker adds the sender; the aggregator compares it with the signature (test_signed_messages.py)."""
    honest = Honest(keyed, peers)
    pushes = peers.member("mallory", zmq.PUSH, Port.PUSH)
    signing = TrainerSigning(keyed.of["mallory"])
    for message in (
        Hello(run="r", term=1, trainer="alice", num_examples=9, round=0, version="x"),
        Goodbye(run="r", term=1, trainer="alice"),
    ):
        for topic in ("up/r", "up/r/alice", "up/r/alice/"):
            pushes.socket.send_multipart(encode(topic, message, sign=signing.sign))
    pushes.socket.send_multipart([b"up/r", b"end"])
    came = honest.collects.until([b"up/r/mallory", b"end"])
    assert {frames[0] for frames in came} == {b"up/r/mallory"}


def test_trainer_reconnects_when_it_is_accepted_after_a_revocation(keyed: Keyed) -> None:
    with trainer_link(keyed, "mallory") as link:
        wait_for(link, LinkUp())
        keyed.revoke("mallory")
        wait_for(link, LinkRefused())
        keyed.accept("mallory")
        wait_for(link, LinkUp())


@pytest.mark.parametrize("name", ["alice", "aggregator"])
def test_broker_without_the_pinned_key_is_reported_as_a_closed_connection(keyed: Keyed, name: str) -> None:
    federation = structs.replace(keyed.federation, broker_key=other_broker(keyed).broker)
    credentials = keyed.of[name]._replace(federation=federation)
    with closing(
        TrainerSockets(federation.broker, name, credentials)
        if name == "alice"
        else AggregatorSockets(federation.broker, "r", credentials)
    ) as link:
        wait_for(link, LinkDown())


def wait_for(link: SubscriberSockets | AggregatorSockets, wanted: LinkEvent) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while not any(type(event) is type(wanted) for event in link.receive()):
        assert time.monotonic() < give_up_at, f"expected {wanted}, got nothing"
        link.wait(0.1)


@contextmanager
def trainer_link(keyed: Keyed, name: str) -> Iterator[TrainerSockets]:
    link = TrainerSockets(keyed.federation.broker, name, keyed.of[name])
    try:
        yield link
    finally:
        link.close()
