"""What the broker answers who asks to be let in, and what it writes down: without a socket, on a clock of the test."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from fedmq.broker.access_control import ASKS, KeyAccessControl
from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames
from fedmq.security import membership
from fedmq.security.admission import REPLACED_AGAIN_S, Admission
from fedmq.security.enrollment import ASK_BYTES_MAX, JoinRequest, RequestStatus, ask, decode_status
from fedmq.security.keyring import MEMBERS, Credentials, Members, public_path, read_identity
from fedmq.security.keys import Identity
from fedmq.security.tokens import IssuedTokens, decode_token, public_half
from fedmq.transport.link import Port


class Hands:
    """A clock whose hands are moved by the test."""

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time


class Scene:
    """A federation in a folder, the broker's answers, and the gate in front of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, Hands()
        self.federation = membership.make_federation(folder, "tcp://192.0.2.1:5550")
        self.members = Members(folder)
        broker = read_identity(folder, "broker")
        assert broker is not None
        self.access = KeyAccessControl(
            Credentials(self.federation, broker), self.members, self.clock, IssuedTokens(folder)
        )
        self.enrollment = Admission(folder, self.federation, self.members, self.clock)

    def token(self, name: str | None = None) -> bytes:
        """The public half of a new token's key."""
        line = membership.issue_token(self.folder, int(self.clock.time) + 60, name, self.clock.time)
        self.look()
        return public_half(decode_token(line))

    def look(self) -> None:
        """What was moved is seen by the broker."""
        self.clock.time += 0.25
        self.access.refresh()

    def ask(self, key: bytes, *identities: Identity) -> RequestStatus | None:
        return self.send(key, ask(self.federation.id, key, *identities))

    def send(self, key: bytes, frames: Frames) -> RequestStatus | None:
        answered = self.enrollment.answer(key, frames)
        return None if answered is None else decode_status(answered)

    def state(self, key: bytes, *identities: Identity) -> str | None:
        status = self.ask(key, *identities)
        return None if status is None else status.state

    def accept(self, who: str) -> None:
        membership.accept(self.folder, who, self.clock.time)
        self.look()

    def requests(self) -> list[str]:
        return [one.fingerprint for one in membership.read_membership(self.folder, self.clock.time).requests]

    def member(self, name: str = "alice") -> Identity:
        """A new trainer that is let in, since long."""
        identity, key = Identity.new("trainer", name), self.token()
        assert self.state(key, identity) == "waiting"
        self.accept(name)
        path = public_path(self.folder, MEMBERS, identity.public)
        os.utime(path, (0.0, self.clock.time - REPLACED_AGAIN_S))
        return identity


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "keys")


@pytest.fixture
def alice() -> Identity:
    return Identity.new("trainer", "alice")


def test_who_asks_waits_until_it_is_accepted(scene: Scene, alice: Identity) -> None:
    key = scene.token()

    assert [scene.state(key, alice), scene.state(key, alice)] == ["waiting", "waiting"]
    assert scene.requests() == [alice.public.fingerprint]
    membership.accept(scene.folder, "alice", scene.clock.time)
    assert scene.state(key, alice) == "waiting"  # until its connections would be let in
    scene.look()
    assert scene.state(key, alice) == "accepted"
    assert scene.requests() == []


def test_who_is_rejected_hears_of_it_and_cannot_ask_again_with_the_token(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.ask(key, alice)

    membership.reject(scene.folder, alice.public.fingerprint[:4], scene.clock.time)

    assert [scene.state(key, alice), scene.state(key, alice)] == ["rejected", "rejected"]
    assert scene.requests() == []
    assert scene.state(scene.token(), alice) == "waiting"  # somebody who gives another token has changed their mind


def test_a_token_is_good_for_one_machine(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.ask(key, alice)

    other = scene.ask(key, Identity.new("trainer", "bob"))

    assert other is not None
    assert other.state == "refused"
    assert "has been used" in other.detail
    assert scene.requests() == [alice.public.fingerprint]


def test_a_used_token_stays_used_when_the_broker_is_another_one(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.ask(key, alice)
    scene.enrollment = Admission(scene.folder, scene.federation, scene.members, scene.clock)

    assert scene.state(key, alice) == "waiting"
    assert scene.state(key, Identity.new("trainer", "bob")) == "refused"


def test_an_expired_token_is_good_for_nothing_and_its_request_goes_with_it(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.ask(key, alice)
    scene.clock.time += 60

    assert scene.state(key, alice) == "expired"
    assert scene.requests() == []
    assert scene.state(key, alice) == "expired"
    assert not scene.access.allows(Port.JOIN, key)


def test_a_request_must_be_signed_by_the_key_that_asks(scene: Scene, alice: Identity) -> None:
    key, mallory = scene.token(), Identity.new("trainer", "mallory")
    header, signature = ask(scene.federation.id, key, alice)
    by_mallory = ask(scene.federation.id, key, mallory)[1]

    for forged in ([header, by_mallory], [header, b""], [header, signature[:-1]], [header, bytes(64)]):
        assert scene.send(key, forged) is None
    assert scene.requests() == []
    assert scene.send(key, [header, signature]) == RequestStatus(state="waiting")


def test_a_request_is_good_for_one_token_and_one_federation_alone(scene: Scene, alice: Identity) -> None:
    key, other = scene.token(), scene.token()

    assert scene.send(key, ask(scene.federation.id, other, alice)) is None
    assert scene.send(key, ask(bytes(16), key, alice)) is None
    assert scene.requests() == []


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"", b""],
        [b"\xc1", bytes(64)],
        [bytes(ASK_BYTES_MAX + 1), bytes(64)],
        [b"\x80", bytes(64), bytes(64), bytes(64)],
        [b"\x81\xa1t\xa4join", bytes(64)],
        [b"\x81\xa1t\xa8standing", bytes(64)],
    ],
)
def test_what_is_no_request_is_not_answered(scene: Scene, frames: list[bytes]) -> None:
    assert scene.send(scene.token(), frames) is None


def test_what_is_no_answer_is_rejected() -> None:
    for frames in ([], [b"", b""], [b"\x80"], [bytes(ASK_BYTES_MAX + 1)]):
        with pytest.raises(Rejected):
            decode_status(frames)
    assert JoinRequest.__struct_config__.tag == "join"


@pytest.mark.parametrize(
    ("role", "name", "said"),
    [
        ("aggregator", "alice", "expected a trainer"),
        ("broker", "alice", "expected a trainer"),
        ("trainer", "aggregator", "is named aggregator already"),
        ("trainer", "bob", "is named bob already"),
        ("trainer", "carol", "is named carol already"),
        ("trainer", "k7fq-2mzt-x4wd-hb3p", "does not look like a fingerprint"),
    ],
)
def test_a_request_that_nobody_could_accept_is_refused_at_once(scene: Scene, role: str, name: str, said: str) -> None:
    scene.member("bob")
    scene.ask(scene.token(), Identity.new("trainer", "carol"))
    before = scene.requests()

    status = scene.ask(scene.token(), Identity.new(role, name))  # type: ignore[arg-type]

    assert status is not None
    assert status.state == "refused"
    assert said in status.detail
    assert scene.requests() == before


def test_a_refused_request_does_not_use_the_token_up(scene: Scene, alice: Identity) -> None:
    key = scene.token("alice")

    assert scene.state(key, Identity.new("trainer", "bob")) == "refused"
    assert scene.state(key, alice) == "waiting"


def test_a_revoked_key_is_never_let_in_again_whatever_it_is_named(scene: Scene) -> None:
    alice = scene.member()
    again = Identity("trainer", "alicia", alice.transport_secret, Identity.new("trainer", "x").signing_secret)
    membership.revoke(scene.folder, "alice", scene.clock.time)
    scene.look()

    for identity in (alice, again):
        status = scene.ask(scene.token(), identity)
        assert status is not None
        assert (status.state, status.detail) == ("refused", "the key has been revoked; a new one is needed")
    assert scene.state(scene.token(), Identity.new("trainer", "alice")) == "waiting"


@pytest.mark.parametrize("key", ["transport_secret", "signing_secret"])
def test_nobody_takes_a_key_of_another_one(scene: Scene, key: str) -> None:
    alice = scene.member()
    thief = msgspec.structs.replace(Identity.new("trainer", "thief"), **{key: getattr(alice, key)})

    status = scene.ask(scene.token(), thief)

    assert status is not None
    assert (status.state, status.detail) == ("refused", "the key is another one's already; a new one is needed")


def test_the_fifth_port_lets_in_tokens_and_trainers_and_nobody_else(scene: Scene) -> None:
    stranger, key, alice = Identity.new("trainer", "x").public.transport, scene.token(), scene.member()
    above = scene.federation.aggregator.transport

    admitted = [scene.access.allows(Port.JOIN, one) for one in (stranger, above, key, alice.public.transport)]

    assert admitted == [False, False, True, True]
    assert scene.access.sender(Port.JOIN, key, 100) == ""
    assert scene.access.sender(Port.JOIN, stranger, 100) is None
    assert [scene.access.allows(port, key) for port in Port if port is not Port.JOIN] == [False] * 4
    scene.clock.time += 60
    assert scene.access.sender(Port.JOIN, key, 100) is None


def test_who_has_a_token_does_not_keep_the_broker_busy(scene: Scene) -> None:
    key = scene.token()

    taken = [scene.access.sender(Port.JOIN, key, 100) for _ in range(1000)]

    assert taken.count("") == ASKS
    scene.clock.time += 1
    assert scene.access.sender(Port.JOIN, key, 100) == ""


def test_a_member_has_its_key_replaced_without_anybody(scene: Scene) -> None:
    old, new = scene.member(), Identity.new("trainer", "alice")

    assert scene.state(old.public.transport, new, old) == "accepted"
    scene.look()
    assert scene.members.of_key(old.public.transport) is None
    assert scene.members.of_name("alice") == new.public
    assert scene.state(new.public.transport, new) == "accepted"  # if the first answer was lost
    assert not scene.access.allows(Port.JOIN, old.public.transport)


def test_a_replacement_must_be_signed_by_both_keys(scene: Scene) -> None:
    old, new = scene.member(), Identity.new("trainer", "alice")
    key = old.public.transport

    assert scene.ask(key, new) is None
    assert scene.ask(key, new, Identity.new("trainer", "alice")) is None
    header, _, by_old = ask(scene.federation.id, key, new, old)
    assert scene.send(key, [header, by_old, by_old]) is None
    scene.look()
    assert scene.members.of_name("alice") == old.public


def test_who_has_just_been_revoked_has_no_key_replaced(scene: Scene) -> None:
    old, new = scene.member(), Identity.new("trainer", "alice")
    membership.revoke(scene.folder, "alice", scene.clock.time)

    assert scene.members.of_key(old.public.transport) is not None, "the broker has not looked again yet"
    assert scene.state(old.public.transport, new, old) == "rejected"
    assert scene.members.of_name("alice") == old.public


def test_a_replacement_keeps_role_and_name(scene: Scene) -> None:
    old = scene.member()

    assert scene.state(old.public.transport, Identity.new("trainer", "bob"), old) == "refused"
    assert scene.state(old.public.transport, Identity.new("observer", "alice"), old) == "refused"


def test_a_key_is_not_replaced_again_at_once(scene: Scene) -> None:
    old, new, newer = scene.member(), Identity.new("trainer", "alice"), Identity.new("trainer", "alice")
    scene.ask(old.public.transport, new, old)
    path = public_path(scene.folder, MEMBERS, new.public)
    os.utime(path, (0.0, scene.clock.time))
    scene.look()

    assert scene.state(new.public.transport, newer, new) == "waiting"
    scene.clock.time += REPLACED_AGAIN_S
    assert scene.state(new.public.transport, newer, new) == "accepted"


def test_a_member_that_is_given_a_token_is_let_in_already(scene: Scene) -> None:
    alice = scene.member()

    assert scene.state(scene.token(), alice) == "accepted"
    assert scene.requests() == []


def test_a_disk_that_is_full_only_makes_who_asks_wait(scene: Scene, alice: Identity) -> None:
    key, requests = scene.token(), scene.folder / "requests"
    requests.rmdir()
    requests.write_text("in the way")

    assert scene.ask(key, alice) is None
    requests.unlink()
    assert scene.state(key, alice) == "waiting"
