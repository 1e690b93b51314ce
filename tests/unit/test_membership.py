"""Changes to the members of a federation: which key a name or a fingerprint selects, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from msgspec import structs

from fedmq.errors import BadConfiguration, NotAuthorized
from fedmq.security import membership
from fedmq.security.commands import keys
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
from fedmq.security.tokens import TOKENS_MAX, IssuedToken, make_token, read_issued_tokens, write_issued_token
from fedmq.security.trainer_keys import check_federation, replace_trainer_key

NOW = 1_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    membership.make_federation(tmp_path / "keys", "tcp://192.0.2.1:5550")
    return tmp_path / "keys"


def request(folder: Path, name: str, kind: str = REQUESTS) -> PublicIdentity:
    public = Identity.new("trainer", name).public
    write_public(folder, kind, public)
    return public


def line_of(error: pytest.ExceptionInfo[BadConfiguration]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


def test_federation_has_private_keys_and_is_not_created_twice(folder: Path) -> None:
    assert [path.stat().st_mode & 0o777 for path in sorted(folder.glob("*.key"))] == [0o600, 0o600]
    before = {path: path.read_bytes() for path in folder.glob("*.*")}

    with pytest.raises(BadConfiguration, match=r"federation\.json"):
        membership.make_federation(folder, "tcp://192.0.2.1:5550")

    assert {path: path.read_bytes() for path in folder.glob("*.*")} == before


@pytest.mark.parametrize("wanted", ["name", "whole", "prefix", "capitals", "without dashes"])
def test_request_is_found_by_name_or_prefix_of_its_fingerprint(folder: Path, wanted: str) -> None:
    alice = request(folder, "alice")
    fingerprint = alice.fingerprint
    text = {
        "name": "alice",
        "whole": fingerprint,
        "prefix": fingerprint[:4],
        "capitals": fingerprint.upper(),
        "without dashes": fingerprint.replace("-", "")[:9],
    }[wanted]

    assert membership.accept_request(folder, text, NOW) == alice
    known = membership.read_membership(folder, NOW)
    assert (known.members, known.requests) == ([alice], [])


def accept(folder: Path, *arguments: str, answer: str = "") -> Result:
    return CliRunner().invoke(keys, ["accept", *arguments, "--keys", str(folder)], input=answer)


def test_request_is_accepted_by_name_or_prefix_only_after_a_question(folder: Path) -> None:
    """A machine that used the token of another first has the right name, and soon the right first letters."""
    shown = ask(folder)
    for wanted in ("alice", shown[:14]):
        unanswered, refused = accept(folder, wanted), accept(folder, wanted, answer="no\n")
        assert isinstance(unanswered.exception, BadConfiguration)
        assert "fedmq keys accept alice FINGERPRINT" in str(unanswered.exception)
        assert (refused.exit_code, shown in refused.output) == (1, True)
    assert membership.read_membership(folder, NOW).members == []
    assert accept(folder, "alice", answer="yes\n").exit_code == 0
    assert [one.fingerprint for one in membership.read_membership(folder, NOW).members] == [shown]


@pytest.mark.parametrize("named", [True, False])
def test_whole_fingerprint_is_accepted_without_a_question(folder: Path, named: bool) -> None:
    shown = ask(folder)
    assert accept(folder, *["alice"] * named, shown).exit_code == 0
    assert [one.fingerprint for one in membership.read_membership(folder, NOW).members] == [shown]


def test_request_with_another_fingerprint_is_not_accepted(folder: Path) -> None:
    shown = ask(folder)
    other = f"{shown[:14]}-aaaa"
    done = accept(folder, "alice", other, answer="yes\n")
    assert isinstance(done.exception, BadConfiguration)
    assert other in str(done.exception)
    assert membership.read_membership(folder, NOW).members == []


def ask(folder: Path) -> str:
    """Return the fingerprint of a request of alice."""
    return request(folder, "alice").fingerprint


def test_token_with_other_keys_of_the_federation_is_refused(folder: Path, tmp_path: Path) -> None:
    """The id of a federation is no secret: a member can make a token of it with keys of its own."""
    known = read_federation(folder)
    write_federation(tmp_path / "alice", known)
    membership.make_federation(tmp_path / "mallory", "tcp://192.0.2.2:5550")
    others = structs.replace(read_federation(tmp_path / "mallory"), id=known.id)
    for forged in (others, structs.replace(known, aggregator=others.aggregator)):
        token = make_token(forged, bytes(32), 2**40, None)
        with pytest.raises(BadConfiguration, match="--replace-keys") as error:
            check_federation(tmp_path / "alice", token, replace_keys=False)
        shown = {*known.fingerprints.values(), *forged.fingerprints.values()}
        assert [one for one in shown if one not in line_of(error)] == []
        check_federation(tmp_path / "alice", token, replace_keys=True)
    moved = structs.replace(known, broker="tcp://192.0.2.3:5550")
    check_federation(tmp_path / "alice", make_token(moved, bytes(32), 2**40, None), replace_keys=False)


@pytest.mark.parametrize("wanted", ["bob", "", "-", "zzzz", "../members", "al"])
def test_unknown_name_is_refused_with_a_list_of_the_requests(folder: Path, wanted: str) -> None:
    alice = request(folder, "alice")

    with pytest.raises(BadConfiguration, match="alice") as error:
        membership.accept_request(folder, wanted, NOW)

    assert alice.fingerprint in line_of(error)


def test_prefix_of_three_characters_is_refused(folder: Path) -> None:
    alice = request(folder, "alice")

    with pytest.raises(BadConfiguration, match="4 characters"):
        membership.reject_request(folder, alice.fingerprint[:3], NOW)


def test_name_that_is_also_a_prefix_of_a_fingerfingerprintis_ambiguous(folder: Path) -> None:
    alice = request(folder, "alice")
    request(folder, alice.fingerprint[:4])

    with pytest.raises(BadConfiguration, match="alice") as error:
        membership.accept_request(folder, alice.fingerprint[:4], NOW)

    assert "alice" in line_of(error)


def test_request_with_the_name_of_a_member_is_not_accepted(folder: Path) -> None:
    request(folder, "alice", MEMBERS)
    other = request(folder, "alice")

    with pytest.raises(BadConfiguration, match="alice"):
        membership.accept_request(folder, other.fingerprint, NOW)


def test_accepting_a_member_or_revoking_twice_is_refused(folder: Path) -> None:
    request(folder, "alice")
    membership.accept_request(folder, "alice", NOW)

    with pytest.raises(BadConfiguration, match="alice"):
        membership.accept_request(folder, "alice", NOW)
    membership.revoke_member(folder, "alice", NOW)
    with pytest.raises(BadConfiguration, match="alice"):
        membership.revoke_member(folder, "alice", NOW)


def test_folder_of_a_trainer_has_no_membership(tmp_path: Path, folder: Path) -> None:
    joined = tmp_path / "joined"
    joined.mkdir()
    (joined / "federation.json").write_bytes((folder / "federation.json").read_bytes())

    with pytest.raises(BadConfiguration, match="members/"):
        membership.read_membership(joined, NOW)


def test_unused_tokens_are_limited(folder: Path) -> None:
    for _ in range(TOKENS_MAX):
        membership.issue_token(folder, int(NOW) + 60, None, NOW)

    with pytest.raises(BadConfiguration, match=str(TOKENS_MAX)):
        membership.issue_token(folder, int(NOW) + 60, None, NOW)
    key, issued = next(iter(read_issued_tokens(folder).items()))
    write_issued_token(folder, key, IssuedToken(issued.expires, used_by="abcd"))
    assert membership.issue_token(folder, int(NOW) + 60, None, NOW), "used tokens do not count"
    assert membership.issue_token(folder, int(NOW) + 120, None, NOW + 61)


@pytest.mark.parametrize("role", ["broker", "aggregator"])
def test_new_key_of_the_federation_is_written_to_its_file(folder: Path, role: str) -> None:
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


def test_observer_gets_its_own_folder_and_can_be_revoked(tmp_path: Path, folder: Path) -> None:
    public = membership.add_observer(folder, "wall", tmp_path / "wall")

    address, credentials = find_broker_to_watch(None, tmp_path / "wall")
    assert credentials == read_credentials(tmp_path / "wall", "observer")
    assert (address, credentials.identity.public) == ("tcp://192.0.2.1:5550", public)
    assert (tmp_path / "wall" / "observer.key").stat().st_mode & 0o777 == 0o600
    assert membership.read_membership(folder, NOW).members == [public]
    assert membership.revoke_member(folder, "wall", NOW) == public
    assert membership.read_membership(folder, NOW).members == []


def test_runs_are_watched_with_the_key_of_an_observer_or_the_aggregator(tmp_path: Path, folder: Path) -> None:
    assert find_broker_to_watch(None, folder)[1] == read_credentials(folder, "aggregator")
    assert find_broker_to_watch("tcp://192.0.2.9:7000", None) == ("tcp://192.0.2.9:7000", None)
    membership.add_observer(folder, "wall", tmp_path / "wall")
    (tmp_path / "wall" / "observer.key").rename(folder / "observer.key")  # both roles on one machine
    assert find_broker_to_watch(None, folder)[1] == read_credentials(folder, "observer")
    joined = tmp_path / "joined"
    write_federation(joined, read_federation(folder))

    with pytest.raises(BadConfiguration, match=r"observer\.key.*aggregator\.key") as error:
        find_broker_to_watch(None, joined)

    line_of(error)


@pytest.mark.parametrize("why", ["a member", "the aggregator", "a key", "another federation", "its own federation"])
def test_observer_with_a_taken_name_or_folder_is_refused(tmp_path: Path, folder: Path, why: str) -> None:
    name, out = "wall", tmp_path / "wall"
    if why == "a member":
        request(folder, "wall", MEMBERS)
    elif why == "the aggregator":
        name = "aggregator"
    elif why == "a key":
        membership.add_observer(folder, "other", out)
    elif why == "another federation":
        membership.make_federation(out, "tcp://192.0.2.2:5550")
    else:
        out = folder  # it has the secret keys of broker and aggregator
    before = membership.read_membership(folder, NOW)

    with pytest.raises(BadConfiguration, match=f"{name}|{out}"):
        membership.add_observer(folder, name, out)

    assert membership.read_membership(folder, NOW) == before


@pytest.mark.parametrize("state", ["refused", "rejected"])
def test_refused_next_key_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: RequestState) -> None:
    federation = membership.make_federation(tmp_path / "home", "tcp://127.0.0.1:5550")
    write_federation(tmp_path / "alice", federation)
    write_identity(tmp_path / "alice", old := Identity.new("trainer", "alice"))
    monkeypatch.setattr("fedmq.security.trainer_keys._request", lambda *_, **__: RequestStatus(state=state))
    with pytest.raises(NotAuthorized):
        replace_trainer_key(tmp_path / "alice", lambda _status: None, None)
    assert read_identity(tmp_path / "alice", "trainer") == old
    assert read_identity(tmp_path / "alice", "trainer", NEXT_SUFFIX) is None
