"""Who may use which port, and how much: the gate with a clock in the test's hands. No socket is opened here."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmq.broker.access_control import (
    HANDSHAKES,
    MEBIBYTES,
    MESSAGES,
    PUNISHED_S,
    REFUSALS,
    ROLES,
    Bucket,
    KeyAccessControl,
)
from fedmq.security.keyring import MEMBERS, REFRESH_S, Credentials, FederationInfo, Members, public_path, write_public
from fedmq.security.keys import Identity
from fedmq.simulation.clock import VirtualClock
from fedmq.transport.link import Port


class AccessControl:
    """A gate, the identities before it, and the hands of its clock."""

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
def at(tmp_path: Path) -> AccessControl:
    return AccessControl(tmp_path)


def test_each_role_is_let_in_at_its_ports_and_a_stranger_at_none(at: AccessControl) -> None:
    assert at.allows(at.aggregator) == {Port.PUBLISH, Port.SUBSCRIBE, Port.PUSH, Port.COLLECT}
    assert at.allows(at.alice) == {Port.SUBSCRIBE, Port.PUSH, Port.JOIN}, "at the last one to have its key replaced"
    assert at.allows(at.olga) == {Port.SUBSCRIBE}
    assert at.allows(at.mallory) == at.allows(at.broker) == set()


def test_a_member_that_says_it_is_an_aggregator_is_none(at: AccessControl) -> None:
    """A federation has one aggregator, and its key stands in federation.json; a file among the members is no crown."""
    assert at.allows(at.usurper) == set()
    assert at.sends(at.usurper, port=Port.PUBLISH) is None


def test_every_port_has_its_roles() -> None:
    assert set(ROLES) == set(Port)


def test_whose_message_it_is(at: AccessControl) -> None:
    assert at.sends(at.alice) == "alice"
    assert at.sends(at.alice, port=Port.SUBSCRIBE) == "alice"
    assert at.sends(at.alice, port=Port.PUBLISH) is None
    assert at.sends(at.mallory) is None
    assert at.access.sender(Port.PUSH, b"", 1) is None


@pytest.mark.parametrize("name", ["aggregator", "olga"])
def test_only_trainers_have_an_inbox(at: AccessControl, name: str) -> None:
    assert at.sends(getattr(at, name), port=Port.SUBSCRIBE) == ""  # which is nobody's name


def test_a_revoked_key_is_refused_at_the_next_refresh_and_nothing_is_kept_of_it(at: AccessControl) -> None:
    assert at.sends(at.alice) == "alice"
    public_path(at.folder, MEMBERS, at.alice.public).unlink()
    at.later(REFRESH_S)
    assert at.access.refresh() == [at.alice.public]
    assert at.sends(at.alice) is None
    assert at.allows(at.alice) == set()
    at.access.block(at.alice.public.transport)  # its connection still lives
    assert at.alice.public.transport not in at.access._accounts


def test_a_bucket_gives_what_is_in_it_and_fills_again() -> None:
    bucket = Bucket(10.0, 2.0)
    assert [bucket.take(4.0, 0.0) for _ in range(3)] == [True, True, False]
    assert bucket.take(2.0, 0.0)
    assert not bucket.take(2.1, 1.0)
    assert bucket.take(2.0, 1.0)
    assert bucket.take(10.0, 1000.0)
    assert not bucket.take(0.1, 1000.0)


def test_so_many_messages_at_once_pass_and_more_after_a_while(at: AccessControl) -> None:
    assert [at.sends(at.alice, size=0) for _ in range(int(MESSAGES) + 1)] == ["alice"] * int(MESSAGES) + [None]
    at.later(1.0)
    assert at.sends(at.alice) == "alice"


def test_what_is_refused_is_counted_by_why(at: AccessControl) -> None:
    at.access.allows(Port.PUSH, at.mallory.public.transport)
    for _ in range(2):
        at.sends(at.mallory)
    for _ in range(3):
        at.sends(at.alice, size=int(MEBIBYTES + 1) << 20)
    assert at.access.refused == {"connection-key": 1, "connection-rate": 0, "message-key": 2, "message-rate": 3}


def test_so_many_bytes_at_once_pass(at: AccessControl) -> None:
    count = int(MEBIBYTES) // 32
    assert [at.sends(at.alice, size=32 << 20) for _ in range(count + 1)] == ["alice"] * count + [None]


def test_so_many_handshakes_at_once_pass_and_those_of_others_are_their_own(at: AccessControl) -> None:
    key = at.alice.public.transport
    assert [at.access.allows(Port.PUSH, key) for _ in range(int(HANDSHAKES) + 1)] == [True] * int(HANDSHAKES) + [False]
    assert at.access.refused == {**dict.fromkeys(REFUSALS, 0), "connection-rate": 1}
    assert at.allows(at.olga) == {Port.SUBSCRIBE}
    at.later(1.0)
    assert at.access.allows(Port.PUSH, key)


def test_the_aggregator_has_no_quota(at: AccessControl) -> None:
    assert all(at.sends(at.aggregator, port=Port.PUBLISH, size=32 << 20) for _ in range(100))


def test_who_is_punished_is_shut_out_for_a_while_and_nobody_else(
    at: AccessControl, caplog: pytest.LogCaptureFixture
) -> None:
    at.access.block(at.alice.public.transport)
    assert "trainer alice" in caplog.text
    assert at.sends(at.alice) is None
    assert at.allows(at.alice) == set()
    assert at.sends(at.olga, port=Port.SUBSCRIBE) == ""
    at.later(PUNISHED_S)
    assert at.sends(at.alice) == "alice"


def test_of_a_stranger_nothing_is_kept(at: AccessControl) -> None:
    for _ in range(100):
        stranger = Identity.new("trainer", "x").public.transport
        assert not at.access.allows(Port.PUSH, stranger)
        at.access.block(stranger)
    assert not at.access._accounts


def test_one_that_floods_is_told_of_once_a_minute(at: AccessControl, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(int(MESSAGES) + 500):
        at.sends(at.alice)
    assert caplog.text.count("sends too much") == 1
