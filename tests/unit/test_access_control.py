"""Access control on virtual time: which key may use which port, and how much. No socket is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmq.broker.access_control import (
    BLOCKED_S,
    HANDSHAKES,
    MEBIBYTES,
    MESSAGES,
    REFUSALS,
    ROLES,
    Bucket,
    KeyAccessControl,
)
from fedmq.security.keyring import MEMBERS, REFRESH_S, Credentials, FederationInfo, Members, public_path, write_public
from fedmq.security.keys import Identity
from fedmq.simulation.clock import VirtualClock
from fedmq.transport.link import Port


class Scene:
    """An access control, some identities, and its clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, VirtualClock()
        self.broker, self.aggregator = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
        self.alice, self.olga = Identity.new("trainer", "alice"), Identity.new("observer", "olga")
        self.usurper, self.mallory = Identity.new("aggregator", "usurper"), Identity.new("trainer", "mallory")
        for member in (self.alice, self.olga, self.usurper):
            write_public(folder, MEMBERS, member.public)
        federation = FederationInfo(bytes(16), "tcp://h:1", self.broker.public.transport, self.aggregator.public)
        self.access = KeyAccessControl(Credentials(federation, self.broker), Members(folder), self.clock)

    def allows(self, identity: Identity) -> set[Port]:
        return {port for port in Port if self.access.allows(port, identity.public.transport)}

    def sends(self, identity: Identity, *, port: Port = Port.PUSH, size: int = 100) -> str | None:
        return self.access.sender(port, identity.public.transport, size)

    def later(self, seconds: float) -> None:
        self.clock.move_to(self.clock.now() + seconds)


@pytest.fixture
def at(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def test_each_role_may_use_its_ports_and_an_unknown_key_none(at: Scene) -> None:
    assert at.allows(at.aggregator) == {Port.PUBLISH, Port.SUBSCRIBE, Port.PUSH, Port.COLLECT}
    assert at.allows(at.alice) == {Port.SUBSCRIBE, Port.PUSH, Port.JOIN}
    assert at.allows(at.olga) == {Port.SUBSCRIBE}
    assert at.allows(at.mallory) == at.allows(at.broker) == set()


def test_member_with_the_role_aggregator_is_refused(at: Scene) -> None:
    """The one aggregator of a federation is in federation.json; a file in members does not add another."""
    assert at.allows(at.usurper) == set()
    assert at.sends(at.usurper, port=Port.PUBLISH) is None


def test_every_port_has_roles() -> None:
    assert set(ROLES) == set(Port)


def test_sender_of_a_message_is_the_name_of_its_key(at: Scene) -> None:
    assert at.sends(at.alice) == "alice"
    assert at.sends(at.alice, port=Port.SUBSCRIBE) == "alice"
    assert at.sends(at.alice, port=Port.PUBLISH) is None
    assert at.sends(at.mallory) is None
    assert at.access.sender(Port.PUSH, b"", 1) is None


@pytest.mark.parametrize("name", ["aggregator", "olga"])
def test_only_trainers_have_an_inbox(at: Scene, name: str) -> None:
    assert at.sends(getattr(at, name), port=Port.SUBSCRIBE) == ""  # not the name of any trainer


def test_revoked_key_is_refused_and_forgotten_after_a_refresh(at: Scene) -> None:
    assert at.sends(at.alice) == "alice"
    public_path(at.folder, MEMBERS, at.alice.public).unlink()
    at.later(REFRESH_S)
    assert at.access.refresh() == [at.alice.public]
    assert at.sends(at.alice) is None
    assert at.allows(at.alice) == set()
    at.access.block(at.alice.public.transport)  # its connection is still open
    assert at.alice.public.transport not in at.access._usage


def test_bucket_empties_and_refills() -> None:
    bucket = Bucket(10.0, 2.0)
    assert [bucket.take(4.0, 0.0) for _ in range(3)] == [True, True, False]
    assert bucket.take(2.0, 0.0)
    assert not bucket.take(2.1, 1.0)
    assert bucket.take(2.0, 1.0)
    assert bucket.take(10.0, 1000.0)
    assert not bucket.take(0.1, 1000.0)


def test_burst_of_messages_is_limited_until_the_quota_refills(at: Scene) -> None:
    assert [at.sends(at.alice, size=0) for _ in range(int(MESSAGES) + 1)] == ["alice"] * int(MESSAGES) + [None]
    at.later(1.0)
    assert at.sends(at.alice) == "alice"


def test_refusals_are_counted_by_reason(at: Scene) -> None:
    at.access.allows(Port.PUSH, at.mallory.public.transport)
    for _ in range(2):
        at.sends(at.mallory)
    for _ in range(3):
        at.sends(at.alice, size=int(MEBIBYTES + 1) << 20)
    assert at.access.refused == {"connection-key": 1, "connection-rate": 0, "message-key": 2, "message-rate": 3}


def test_burst_of_bytes_is_limited(at: Scene) -> None:
    count = int(MEBIBYTES) // 32
    assert [at.sends(at.alice, size=32 << 20) for _ in range(count + 1)] == ["alice"] * count + [None]


def test_burst_of_handshakes_is_limited_for_each_key(at: Scene) -> None:
    key = at.alice.public.transport
    assert [at.access.allows(Port.PUSH, key) for _ in range(int(HANDSHAKES) + 1)] == [True] * int(HANDSHAKES) + [False]
    assert at.access.refused == {**dict.fromkeys(REFUSALS, 0), "connection-rate": 1}
    assert at.allows(at.olga) == {Port.SUBSCRIBE}
    at.later(1.0)
    assert at.access.allows(Port.PUSH, key)


def test_aggregator_has_no_quota(at: Scene) -> None:
    assert all(at.sends(at.aggregator, port=Port.PUBLISH, size=32 << 20) for _ in range(100))


def test_blocked_key_is_refused_for_a_while_and_others_are_not(at: Scene, caplog: pytest.LogCaptureFixture) -> None:
    at.access.block(at.alice.public.transport)
    assert "trainer alice" in caplog.text
    assert at.sends(at.alice) is None
    assert at.allows(at.alice) == set()
    assert at.sends(at.olga, port=Port.SUBSCRIBE) == ""
    at.later(BLOCKED_S)
    assert at.sends(at.alice) == "alice"


def test_unknown_keys_take_no_memory(at: Scene) -> None:
    for _ in range(100):
        stranger = Identity.new("trainer", "x").public.transport
        assert not at.access.allows(Port.PUSH, stranger)
        at.access.block(stranger)
    assert not at.access._usage


def test_flood_is_logged_once_a_minute(at: Scene, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(int(MESSAGES) + 500):
        at.sends(at.alice)
    assert caplog.text.count("trainer alice") == 1
