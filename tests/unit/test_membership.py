"""Who is meant by `fedmq keys accept WHO`, and every way in which nobody, or the wrong one, could be."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fedmq.errors import BadConfiguration
from fedmq.security import membership
from fedmq.security.enrollment import RequestState, RequestStatus
from fedmq.security.keyring import (
    MEMBERS,
    NEXT_SUFFIX,
    REQUESTS,
    find_broker_to_watch,
    read_credentials,
    read_federation,
    read_identity,
    write_federation,
    write_identity,
    write_public,
)
from fedmq.security.keys import Identity, PublicIdentity
from fedmq.security.rotation import rotate_trainer
from fedmq.security.tokens import TOKENS_MAX, IssuedToken, read_issued_tokens, write_issued_token

NOW = 1_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    membership.make_federation(tmp_path / "keys", "tcp://192.0.2.1:5550")
    return tmp_path / "keys"


def asks(folder: Path, name: str, kind: str = REQUESTS) -> PublicIdentity:
    public = Identity.new("trainer", name).public
    write_public(folder, kind, public)
    return public


def says(error: pytest.ExceptionInfo[BadConfiguration]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_federation_has_private_keys_and_is_never_made_twice(folder: Path) -> None:
    assert [path.stat().st_mode & 0o777 for path in sorted(folder.glob("*.key"))] == [0o600, 0o600]
    before = {path: path.read_bytes() for path in folder.glob("*.*")}

    with pytest.raises(BadConfiguration, match="never overwritten"):
        membership.make_federation(folder, "tcp://192.0.2.1:5550")

    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


@pytest.mark.parametrize("said", ["name", "whole", "prefix", "capitals", "without dashes"])
def test_one_is_meant_by_its_name_or_the_beginning_of_its_fingerprint(folder: Path, said: str) -> None:
    alice, print_ = (public := asks(folder, "alice")), public.fingerprint
    who = {
        "name": "alice",
        "whole": print_,
        "prefix": print_[:4],
        "capitals": print_.upper(),
        "without dashes": print_.replace("-", "")[:9],
    }[said]

    assert membership.accept(folder, who, NOW) == alice
    known = membership.read_membership(folder, NOW)
    assert (known.members, known.requests) == ([alice], [])


@pytest.mark.parametrize("who", ["nobody", "", "-", "zzzz", "../members", "al"])
def test_nobody_is_meant_by_anything_else_and_who_is_there_is_listed(folder: Path, who: str) -> None:
    alice = asks(folder, "alice")

    with pytest.raises(BadConfiguration, match="that is: alice") as error:
        membership.accept(folder, who, NOW)

    assert alice.fingerprint in says(error)


def test_three_characters_are_not_enough(folder: Path) -> None:
    alice = asks(folder, "alice")

    with pytest.raises(BadConfiguration, match="at least 4 characters"):
        membership.reject(folder, alice.fingerprint[:3], NOW)


def test_a_name_that_is_the_beginning_of_a_fingerprint_means_neither(folder: Path) -> None:
    alice = asks(folder, "alice")
    asks(folder, alice.fingerprint[:4])

    with pytest.raises(BadConfiguration, match="can be each of") as error:
        membership.accept(folder, alice.fingerprint[:4], NOW)

    assert "alice" in says(error)


def test_a_name_that_a_member_has_is_not_let_in_again(folder: Path) -> None:
    asks(folder, "alice", MEMBERS)
    other = asks(folder, "alice")

    with pytest.raises(BadConfiguration, match="another one is named so already"):
        membership.accept(folder, other.fingerprint, NOW)


def test_who_is_in_or_out_already_is_told_so(folder: Path) -> None:
    asks(folder, "alice")
    membership.accept(folder, "alice", NOW)

    with pytest.raises(BadConfiguration, match="is accepted already"):
        membership.accept(folder, "alice", NOW)
    membership.revoke(folder, "alice", NOW)
    with pytest.raises(BadConfiguration, match="is revoked already"):
        membership.revoke(folder, "alice", NOW)


def test_a_folder_of_a_trainer_is_not_where_people_are_let_in(tmp_path: Path, folder: Path) -> None:
    joined = tmp_path / "joined"
    joined.mkdir()
    (joined / "federation.json").write_bytes((folder / "federation.json").read_bytes())

    with pytest.raises(BadConfiguration, match="go to the broker's machine"):
        membership.read_membership(joined, NOW)


def test_there_are_never_too_many_tokens(folder: Path) -> None:
    for _ in range(TOKENS_MAX):
        membership.issue_token(folder, int(NOW) + 60, None, NOW)

    with pytest.raises(BadConfiguration, match="expected less than"):
        membership.issue_token(folder, int(NOW) + 60, None, NOW)
    key, issued = next(iter(read_issued_tokens(folder).items()))
    write_issued_token(folder, key, IssuedToken(issued.expires, used_by="abcd"))
    assert membership.issue_token(folder, int(NOW) + 60, None, NOW), "for one that is used, another"
    assert membership.issue_token(folder, int(NOW) + 120, None, NOW + 61)


@pytest.mark.parametrize("role", ["broker", "aggregator"])
def test_a_new_key_of_the_federation_is_in_its_description(folder: Path, role: str) -> None:
    before, old = read_federation(folder), read_identity(folder, role)  # type: ignore[arg-type]

    new = membership.renew_key(folder, role)

    federation, identity = read_credentials(folder, role)  # type: ignore[arg-type]
    assert identity.public == new
    assert identity != old
    assert new in (federation.aggregator, identity.public)
    expected = (federation.broker_key, before.aggregator) if role == "broker" else (before.broker_key, new)
    assert (federation.broker_key, federation.aggregator) == expected
    assert federation.broker_key != before.broker_key or role == "aggregator"
    assert not list(folder.glob("*.next"))


def test_an_observer_has_a_folder_of_its_own_and_is_revoked_as_others_are(tmp_path: Path, folder: Path) -> None:
    public = membership.add_observer(folder, "wall", tmp_path / "wall")

    address, credentials = find_broker_to_watch(None, tmp_path / "wall")
    assert credentials == read_credentials(tmp_path / "wall", "observer")
    assert (address, credentials.identity.public) == ("tcp://192.0.2.1:5550", public)
    assert (tmp_path / "wall" / "observer.key").stat().st_mode & 0o777 == 0o600
    assert membership.read_membership(folder, NOW).members == [public]
    assert membership.revoke(folder, "wall", NOW) == public
    assert membership.read_membership(folder, NOW).members == []


def test_who_holds_the_aggregators_key_watches_with_it_and_a_trainer_with_none(tmp_path: Path, folder: Path) -> None:
    assert find_broker_to_watch(None, folder)[1] == read_credentials(folder, "aggregator")
    assert find_broker_to_watch("tcp://192.0.2.9:7000", None) == ("tcp://192.0.2.9:7000", None)
    membership.add_observer(folder, "wall", tmp_path / "wall")
    (tmp_path / "wall" / "observer.key").rename(folder / "observer.key")  # on the same machine
    assert find_broker_to_watch(None, folder)[1] == read_credentials(folder, "observer")
    joined = tmp_path / "joined"
    write_federation(joined, read_federation(folder))

    with pytest.raises(BadConfiguration, match=r"expected observer\.key or aggregator\.key in it") as error:
        find_broker_to_watch(None, joined)

    says(error)


@pytest.mark.parametrize("why", ["a member", "the aggregator", "a key", "another federation", "its own federation"])
def test_an_observers_name_and_folder_are_new(tmp_path: Path, folder: Path, why: str) -> None:
    name, out = "wall", tmp_path / "wall"
    if why == "a member":
        asks(folder, "wall", MEMBERS)
    elif why == "the aggregator":
        name = "aggregator"
    elif why == "a key":
        membership.add_observer(folder, "other", out)
    elif why == "another federation":
        membership.make_federation(out, "tcp://192.0.2.2:5550")
    else:
        out = folder  # with the broker's and the aggregator's keys, which would be given away
    before = membership.read_membership(folder, NOW)

    with pytest.raises(BadConfiguration, match=r"named so already|expected a new folder"):
        membership.add_observer(folder, name, out)

    assert membership.read_membership(folder, NOW) == before


@pytest.mark.parametrize("state", ["refused", "rejected"])
def test_a_next_key_that_is_refused_is_not_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: RequestState
) -> None:
    federation = membership.make_federation(tmp_path / "home", "tcp://127.0.0.1:5550")
    write_federation(tmp_path / "alice", federation)
    write_identity(tmp_path / "alice", old := Identity.new("trainer", "alice"))
    ended = SimpleNamespace(interrupted=False, answer=RequestStatus(state=state))
    monkeypatch.setattr("fedmq.security.enrollment_client.ask_broker", lambda *_, **__: ended)
    assert rotate_trainer(tmp_path / "alice", None)[1] == ended.answer
    assert read_identity(tmp_path / "alice", "trainer") == old
    assert read_identity(tmp_path / "alice", "trainer", NEXT_SUFFIX) is None
