"""Admission: what the broker answers and records, without a socket and on the test's clock."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from fedmq.broker.access_control import ALL_REQUESTS, ALL_REQUESTS_S, MEMBER_REQUESTS, REQUESTS, KeyAccessControl
from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames
from fedmq.security import keyring, membership
from fedmq.security.admission import KEY_AGE_MIN_S, REVOKED_MAX, Admission
from fedmq.security.enrollment import REQUEST_BYTES_MAX, JoinRequest, RequestStatus, decode_status, encode_request
from fedmq.security.keyring import MEMBERS, Credentials, Members, public_path, read_identity, write_public
from fedmq.security.keys import Identity, transport_public
from fedmq.security.tokens import IssuedTokens, decode_token
from fedmq.transport.link import Port


class TestClock:
    """A clock that the test sets."""

    __test__ = False

    def __init__(self) -> None:
        self.time = 1_000_000.0

    def now(self) -> float:
        return self.time

    def wall(self) -> float:
        return self.time


class Scene:
    """A federation in a folder, its admission and its access control."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, TestClock()
        self.federation = membership.make_federation(folder, "tcp://192.0.2.1:5550")
        self.members, self.tokens = Members(folder), IssuedTokens(folder)
        broker = read_identity(folder, "broker")
        assert broker is not None
        self.access = KeyAccessControl(Credentials(self.federation, broker), self.members, self.clock, self.tokens)
        self.admission = Admission(folder, self.federation, self.members, self.tokens, self.clock)

    def token(self, name: str | None = None) -> bytes:
        """The public half of a new token's key."""
        line = membership.issue_token(self.folder, int(self.clock.time) + 60, name, self.clock.time)
        self.refresh()
        return transport_public(decode_token(line).secret)

    def refresh(self) -> None:
        """Let the broker read the folder of keys again."""
        self.clock.time += 0.25
        self.access.refresh()

    def request(self, key: bytes, *identities: Identity) -> RequestStatus | None:
        return self.send(key, encode_request(self.federation.id, key, *identities))

    def send(self, key: bytes, frames: Frames) -> RequestStatus | None:
        answered = self.admission.answer(key, frames)
        return None if answered is None else decode_status(answered)

    def state(self, key: bytes, *identities: Identity) -> str | None:
        status = self.request(key, *identities)
        return None if status is None else status.state

    def accept(self, wanted: str) -> None:
        membership.accept_request(self.folder, wanted, self.clock.time)
        self.refresh()

    def requests(self) -> list[str]:
        return [one.fingerprint for one in membership.read_membership(self.folder, self.clock.time).requests]

    def member(self, name: str = "alice") -> Identity:
        """Return a new member."""
        identity, key = Identity.new("trainer", name), self.token()
        assert self.state(key, identity) == "waiting"
        self.accept(name)
        self.set_age(identity, 0.0)
        return identity

    def set_age(self, member: Identity, age_s: float) -> None:
        os.utime(public_path(self.folder, MEMBERS, member.public), (0.0, self.clock.time - age_s))
        self.refresh()

    def replace(self, old: Identity) -> tuple[str | None, Identity]:
        """Replace a member's key by a new one; return the answer and the new identity."""
        new = Identity.new("trainer", old.name)
        state = self.state(old.public.transport, new, old)
        self.refresh()
        return state, new


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "keys")


@pytest.fixture
def alice() -> Identity:
    return Identity.new("trainer", "alice")


def test_request_waits_until_it_is_accepted(scene: Scene, alice: Identity) -> None:
    key = scene.token()

    assert [scene.state(key, alice), scene.state(key, alice)] == ["waiting", "waiting"]
    assert scene.requests() == [alice.public.fingerprint]
    membership.accept_request(scene.folder, "alice", scene.clock.time)
    assert scene.state(key, alice) == "waiting"  # until its connections would be accepted
    scene.refresh()
    assert scene.state(key, alice) == "accepted"
    assert scene.requests() == []


def test_rejected_request_cannot_be_repeated_with_the_token(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.request(key, alice)

    membership.reject_request(scene.folder, alice.public.fingerprint[:4], scene.clock.time)

    assert [scene.state(key, alice), scene.state(key, alice)] == ["rejected", "rejected"]
    assert scene.requests() == []
    assert scene.state(scene.token(), alice) == "waiting"  # another token invites it again


def test_token_is_refused_for_a_second_machine(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.request(key, alice)

    other = scene.request(key, Identity.new("trainer", "bob"))

    assert other is not None
    assert other.state == "refused"
    assert scene.requests() == [alice.public.fingerprint]


def test_used_token_stays_used_after_a_restart_of_the_broker(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.request(key, alice)
    scene.admission = Admission(scene.folder, scene.federation, scene.members, IssuedTokens(scene.folder), scene.clock)

    assert scene.state(key, alice) == "waiting"
    assert scene.state(key, Identity.new("trainer", "bob")) == "refused"


def test_expired_token_is_refused_and_its_request_deleted(scene: Scene, alice: Identity) -> None:
    key = scene.token()
    scene.request(key, alice)
    scene.clock.time += 60

    assert scene.state(key, alice) == "expired"
    assert scene.requests() == []
    assert scene.state(key, alice) == "expired"
    assert not scene.access.allows(Port.JOIN, key)


def test_request_without_a_signature_by_its_own_key_is_dropped(scene: Scene, alice: Identity) -> None:
    key, mallory = scene.token(), Identity.new("trainer", "mallory")
    header, signature = encode_request(scene.federation.id, key, alice)
    by_mallory = encode_request(scene.federation.id, key, mallory)[1]

    for forged in ([header, by_mallory], [header, b""], [header, signature[:-1]], [header, bytes(64)]):
        assert scene.send(key, forged) is None
    assert scene.requests() == []
    assert scene.send(key, [header, signature]) == RequestStatus(state="waiting")


def test_request_for_another_token_or_federation_is_dropped(scene: Scene, alice: Identity) -> None:
    key, other = scene.token(), scene.token()

    assert scene.send(key, encode_request(scene.federation.id, other, alice)) is None
    assert scene.send(key, encode_request(bytes(16), key, alice)) is None
    assert scene.requests() == []


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b""],
        [b"", b""],
        [b"\xc1", bytes(64)],
        [bytes(REQUEST_BYTES_MAX + 1), bytes(64)],
        [b"\x80", bytes(64), bytes(64), bytes(64)],
        [b"\x81\xa1t\xa4join", bytes(64)],
        [b"\x81\xa1t\xa6status", bytes(64)],
        [b"\x82\xa1t\xa4join\xa1x" + b"\x91" * (REQUEST_BYTES_MAX - 20) + b"\xc0", bytes(64)],  # deeper than a stack
    ],
)
def test_malformed_request_is_not_answered(scene: Scene, frames: list[bytes]) -> None:
    assert scene.send(scene.token(), frames) is None


def test_malformed_answer_is_rejected() -> None:
    for frames in ([], [b"", b""], [b"\x80"], [bytes(REQUEST_BYTES_MAX + 1)]):
        with pytest.raises(Rejected):
            decode_status(frames)
    assert JoinRequest.__struct_config__.tag == "join"


@pytest.mark.parametrize(
    ("role", "name", "named"),
    [
        ("aggregator", "alice", "aggregator"),
        ("broker", "alice", "broker"),
        ("trainer", "aggregator", "aggregator"),
        ("trainer", "bob", "bob"),
        ("trainer", "carol", "carol"),
        ("trainer", "k7fq-2mzt-x4wd-hb3p", "k7fq-2mzt-x4wd-hb3p"),
    ],
)
def test_request_that_cannot_be_accepted_is_refused_at_once(scene: Scene, role: str, name: str, named: str) -> None:
    scene.member("bob")
    scene.request(scene.token(), Identity.new("trainer", "carol"))
    before = scene.requests()

    status = scene.request(scene.token(), Identity.new(role, name))  # type: ignore[arg-type]

    assert status is not None
    assert status.state == "refused"
    assert named in status.detail
    assert scene.requests() == before


def test_refused_request_does_not_use_the_token(scene: Scene, alice: Identity) -> None:
    key = scene.token("alice")

    assert scene.state(key, Identity.new("trainer", "bob")) == "refused"
    assert scene.state(key, alice) == "waiting"


def test_revoked_key_is_refused_under_every_name(scene: Scene) -> None:
    alice = scene.member()
    again = Identity("trainer", "alicia", alice.transport_secret, Identity.new("trainer", "x").signing_secret)
    membership.revoke_member(scene.folder, "alice", scene.clock.time)
    scene.refresh()

    for identity in (alice, again):
        status = scene.request(scene.token(), identity)
        assert status is not None
        assert status.state == "refused"
    assert scene.state(scene.token(), Identity.new("trainer", "alice")) == "waiting"


@pytest.mark.parametrize("key", ["transport_secret", "signing_secret"])
def test_key_of_another_member_is_refused(scene: Scene, key: str) -> None:
    alice = scene.member()
    thief = msgspec.structs.replace(Identity.new("trainer", "thief"), **{key: getattr(alice, key)})

    status = scene.request(scene.token(), thief)

    assert status is not None
    assert status.state == "refused"


def test_enrollment_port_accepts_tokens_and_trainers_only(scene: Scene) -> None:
    stranger, key, alice = Identity.new("trainer", "x").public.transport, scene.token(), scene.member()
    above = scene.federation.aggregator.transport

    admitted = [scene.access.allows(Port.JOIN, one) for one in (stranger, above, key, alice.public.transport)]

    assert admitted == [False, False, True, True]
    assert scene.access.sender(Port.JOIN, key, 100) == ""
    assert scene.access.sender(Port.JOIN, stranger, 100) is None
    assert [scene.access.allows(port, key) for port in Port if port is not Port.JOIN] == [False] * 4
    scene.clock.time += 60
    assert scene.access.sender(Port.JOIN, key, 100) is None


def test_requests_of_one_token_are_limited(scene: Scene) -> None:
    key = scene.token()

    taken = [scene.access.sender(Port.JOIN, key, 100) for _ in range(1000)]

    assert taken.count("") == REQUESTS
    scene.clock.time += 1
    assert scene.access.sender(Port.JOIN, key, 100) == ""


def test_key_of_a_member_is_replaced_without_acceptance(scene: Scene) -> None:
    old, new = scene.member(), Identity.new("trainer", "alice")

    assert scene.state(old.public.transport, new, old) == "accepted"
    scene.refresh()
    assert scene.members.of_key(old.public.transport) is None
    assert scene.members.of_name("alice") == new.public
    assert scene.state(new.public.transport, new) == "accepted"  # if the first answer was lost
    assert not scene.access.allows(Port.JOIN, old.public.transport)


def test_replacement_without_both_signatures_is_dropped(scene: Scene) -> None:
    old, new = scene.member(), Identity.new("trainer", "alice")
    key = old.public.transport

    assert scene.request(key, new) is None
    assert scene.request(key, new, Identity.new("trainer", "alice")) is None
    header, _, by_old = encode_request(scene.federation.id, key, new, old)
    assert scene.send(key, [header, by_old, by_old]) is None
    scene.refresh()
    assert scene.members.of_name("alice") == old.public


def test_key_of_a_just_revoked_member_is_not_replaced(scene: Scene) -> None:
    old, new = scene.member(), Identity.new("trainer", "alice")
    membership.revoke_member(scene.folder, "alice", scene.clock.time)

    assert scene.members.of_key(old.public.transport) is not None, "the broker has not refreshed yet"
    assert scene.state(old.public.transport, new, old) == "rejected"
    assert scene.members.of_name("alice") == old.public


def test_replacement_with_another_role_or_name_is_refused(scene: Scene) -> None:
    old = scene.member()

    assert scene.state(old.public.transport, Identity.new("trainer", "bob"), old) == "refused"
    assert scene.state(old.public.transport, Identity.new("observer", "alice"), old) == "refused"


def test_replaced_key_is_not_replaced_again_for_hours(scene: Scene) -> None:
    _, new = scene.replace(scene.member())
    scene.set_age(new, 0.0)

    status = scene.request(new.public.transport, Identity.new("trainer", "alice"), new)

    assert status is not None
    assert status.state == "refused"
    assert "4 hours" in status.detail
    assert "240 minutes" in status.detail
    scene.clock.time += KEY_AGE_MIN_S
    scene.refresh()
    assert scene.replace(new)[0] == "accepted"
    assert KEY_AGE_MIN_S >= 3600


def test_only_the_newest_revoked_keys_of_a_name_are_kept(scene: Scene) -> None:
    bob, member = scene.member("bob"), scene.member()
    membership.revoke_member(scene.folder, "bob", scene.clock.time)
    earlier = [member]
    for age_s in range(100_000, 100_000 + 2 * REVOKED_MAX):
        scene.set_age(member, age_s)
        state, member = scene.replace(member)
        assert state == "accepted"
        earlier.insert(0, member)

    revoked = membership.read_membership(scene.folder, scene.clock.time).revoked

    assert len(revoked) == REVOKED_MAX + 1
    assert bob.public in revoked
    assert earlier[1].public in revoked  # the one that was replaced last


@pytest.mark.parametrize("members", [3, 30])
def test_request_of_a_member_reads_no_file(scene: Scene, monkeypatch: pytest.MonkeyPatch, members: int) -> None:
    """Requests for another key, which it may send all day, must cost the broker the same with a thousand members."""
    for number in range(members):
        write_public(scene.folder, MEMBERS, Identity.new("trainer", f"m{number}").public)
    mallory, victim, waiting = scene.member("mallory"), scene.member("victim"), Identity.new("trainer", "waiting")
    assert scene.state(scene.token(), waiting) == "waiting"
    another, shared = Identity.new("trainer", "bob"), msgspec.structs.replace(victim, name="mallory")
    new = Identity.new("trainer", "mallory")
    requests = [
        encode_request(scene.federation.id, mallory.public.transport, one, mallory) for one in (another, shared)
    ]
    replacement = encode_request(scene.federation.id, mallory.public.transport, new, mallory)
    scene.send(mallory.public.transport, requests[0])
    touched = list[object]()
    real_read = keyring.read_file
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *_args: touched.append(path))
        patch.setattr(os, "open", lambda path, *_args: touched.append(path))
        patch.setattr(os, "scandir", lambda path: touched.append(path))
        patch.setattr(keyring, "read_file", lambda path, _kind: touched.append(path))
        answers = [scene.send(mallory.public.transport, request) for request in requests]

    assert [answer and answer.state for answer in answers] == ["refused", "refused"]
    assert not touched

    monkeypatch.setattr(keyring, "read_file", lambda path, kind: touched.append(path) or real_read(path, kind))
    assert scene.send(mallory.public.transport, replacement) == RequestStatus(state="accepted")
    assert len(touched) <= 2, "its own file, in the folders that it moved to"


def test_requests_of_all_members_together_are_limited_and_leave_room_for_tokens(scene: Scene) -> None:
    token, keys = scene.token(), [Identity.new("trainer", f"m{number}").public for number in range(20)]
    for key in keys:
        write_public(scene.folder, MEMBERS, key)
    scene.refresh()

    taken = [scene.access.sender(Port.JOIN, key.transport, 100) for _ in range(20) for key in keys]

    assert len(taken) - taken.count(None) == MEMBER_REQUESTS
    assert scene.access.sender(Port.JOIN, token, 100) == ""


def test_requests_of_all_tokens_together_are_limited(scene: Scene) -> None:
    tokens = [scene.token() for _ in range(int(ALL_REQUESTS / REQUESTS) + 2)]
    scene.clock.time += ALL_REQUESTS / ALL_REQUESTS_S

    taken = [scene.access.sender(Port.JOIN, token, 100) for _ in range(int(REQUESTS)) for token in tokens]

    assert taken.count("") == ALL_REQUESTS


def test_member_with_a_token_is_accepted_at_once(scene: Scene) -> None:
    alice = scene.member()

    assert scene.state(scene.token(), alice) == "accepted"
    assert scene.requests() == []


def test_request_is_repeated_after_the_disk_was_full(scene: Scene, alice: Identity) -> None:
    key, requests = scene.token(), scene.folder / "requests"
    requests.rmdir()
    requests.write_text("in the way")

    assert scene.request(key, alice) is None
    requests.unlink()
    assert scene.state(key, alice) == "waiting"
