"""`fedmq keys` and `fedmq trainer join` as a person uses them, and misuses them: real processes on this machine.

Knows what the processes print and write, nothing of their insides.
"""

from __future__ import annotations

import base64
import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from enrolled import Federation, one_line
from services import closed, events_of, until
from zmq.utils import z85


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as running:
        running.make()
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a federation without processes, that no test may change."""
    folder = tmp_path_factory.mktemp("home")
    still = Federation(folder)
    assert still.fedmq("keys", "init", "--broker", still.address).returncode == 0
    (folder / "expired").write_text(still.expire(still.token()))
    (folder / "good").write_text(still.token("--name", "alice"))  # and what has expired goes
    return folder


NOBODY = "that is: nobody"
WRONG_USES = [
    (["keys", "init"], 2, "Missing option '--broker'"),
    (["keys", "init", "--broker", "here"], 78, "expected a broker address like tcp://"),
    (["keys", "init", "--broker", "tcp://0.0.0.0:5550"], 78, "expected an address that trainers can connect to"),
    (["keys", "init", "--broker", "tcp://192.0.2.1:5550"], 78, "keys are never overwritten"),
    (["keys", "init", "--broker", "tcp://192.0.2.1:5550", "--keys", "good"], 2, "is a file"),
    (["keys", "token", "--keys", "nowhere"], 78, "expected federation.json in it, got none"),
    (["keys", "token", "--hours", "0"], 2, "--hours"),
    (["keys", "token", "--hours", "soon"], 2, "--hours"),
    (["keys", "token", "--name", "a b"], 2, "expected letters, digits"),
    (["keys", "token", "--name", "aggregator"], 78, "another one is named so already"),
    (["keys", "ls", "--keys", "nowhere"], 78, "expected federation.json in it, got none"),
    (["keys", "ls", "everything"], 2, "unexpected extra argument"),
    (["keys", "accept"], 2, "Missing argument 'WHO'"),
    (["keys", "accept", "k7fq"], 78, NOBODY),
    (["keys", "accept", "alice", "--keys", "nowhere"], 78, "expected federation.json in it, got none"),
    (["keys", "reject", "k7fq"], 78, NOBODY),
    (["keys", "revoke", "alice"], 78, NOBODY),
    (["keys", "rotate"], 78, "expected trainer.key in it, got none"),
    (["keys", "rotate", "alice"], 2, "is not one of 'trainer', 'broker', 'aggregator'"),
    (["keys", "rotate", "broker", "--keys", "nowhere"], 78, "expected federation.json in it, got none"),
    (["keys", "acept", "k7fq"], 2, "No such command 'acept'"),
    (["keys", "token", "--no-such-option"], 2, "No such option"),
    (["trainer", "join"], 2, "Missing argument 'TOKEN'"),
    (["trainer", "join", "fedmq1-abc"], 78, "expected a whole token"),
    (["trainer", "join", "@good", "--name", "bob"], 78, "expected --name alice, for whom the token is, got bob"),
    (["trainer", "join", "@good", "--name", "a b"], 2, "expected letters, digits"),
    (["trainer", "join", "@expired", "--keys", "new"], 77, "expected a token that is still good"),
    (["trainer", "--name", "alice", "join", "@good"], 2, "expected --name after join"),
    (["trainer", "joni", "@good"], 2, "No such command 'joni'"),
    (["trainer"], 2, "Missing option '--data'"),
    (["trainer", "--keys", "nowhere", "--data", "xor:1/2"], 78, "expected federation.json in it, got none"),
    (["trainer", "--keys", "keys", "--data", "xor:1/2"], 78, "expected trainer.key in it, got none"),
    (["broker", "--keys", "nowhere"], 78, "expected federation.json in it, got none"),
    (["broker", "--keys", "keys", "--bind", "192.0.2.1"], 78, "expected an address of this machine"),
    (["broker", "--bind", "192.0.2.1"], 78, "a broker without keys would let anybody in"),
    (["aggregator", "--task", "xor", "--keys", "nowhere"], 78, "expected federation.json in it, got none"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), WRONG_USES, ids=[" ".join(one[0]) for one in WRONG_USES])
def test_wrong_use_gives_one_line_and_an_exit_code(home: Path, arguments: list[str], code: int, said: str) -> None:
    words = [(home / one[1:]).read_text() if one.startswith("@") else one for one in arguments]
    before = sorted(home.rglob("*"))

    done = Federation(home).fedmq(*words)

    assert (done.returncode, done.stdout) == (code, "")
    assert said in one_line(done)
    assert sorted(home.rglob("*")) == before


def test_accepted_trainer_trains_and_rejected_trainer_does_not(federation: Federation) -> None:
    federation.start_join("alice", federation.token())
    federation.start_join("mallory", federation.token("--name", "mallory"))
    assert federation.names("requests") == ["alice", "mallory"]

    assert federation.fedmq("keys", "reject", federation.fingerprint("mallory")).returncode == 0
    accepted = federation.fedmq("keys", "accept", federation.fingerprint("alice")[:4])

    assert accepted.returncode == 0, accepted.stderr
    assert federation.wait("join-mallory") == 77
    assert federation.err("join-mallory").endswith("does not let in trainer mallory: somebody has rejected it\n")
    assert federation.wait("join-alice") == 0
    assert "next: fedmq trainer --keys alice" in federation.out("join-alice")
    assert not list((federation.folder / "mallory").iterdir())
    assert (federation.folder / "alice" / "trainer.key").stat().st_mode & 0o777 == 0o600
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 2, "rounds with alice")


def test_interrupted_join_continues_with_the_same_command(federation: Federation) -> None:
    token = federation.token()
    federation.start_join("alice", token)
    federation.running["join-alice"].send_signal(signal.SIGINT)
    assert federation.wait("join-alice") == 1
    assert federation.err("join-alice") == "not accepted yet; the same command goes on waiting\n"

    federation.start_join("alice", token)
    fingerprint = federation.fingerprint("alice")  # there is but one
    federation.kill("join-alice")
    assert federation.fedmq("keys", "accept", fingerprint).returncode == 0
    done = federation.fedmq("trainer", "join", token, "--keys", "alice")

    assert done.returncode == 0, done.stderr
    assert fingerprint in done.stdout
    again = federation.fedmq("trainer", "join", token, "--keys", "alice")
    assert (again.returncode, again.stdout) == (0, done.stdout)


def test_join_survives_a_kill_of_the_broker(federation: Federation) -> None:
    federation.start_join("alice", federation.token())
    federation.kill("broker")
    until(lambda: "is gone; trying again" in federation.err("join-alice"), "the broker to be missed")
    federation.start_broker()
    until(lambda: "is there" in federation.err("join-alice"), "the broker to be back")

    assert federation.fedmq("keys", "accept", "alice").returncode == 0

    assert federation.wait("join-alice") == 0, federation.err("join-alice")


def test_used_or_expired_token_is_refused(federation: Federation) -> None:
    token, short = federation.token(), federation.token()
    federation.start_join("alice", token)
    second = federation.fedmq("trainer", "join", token, "--name", "bob", "--keys", "bob")
    federation.start_join("carol", short)
    federation.expire(short)

    assert second.returncode == 77
    assert "the token has been used: it is good for one machine" in one_line(second)
    assert federation.wait("join-carol") == 77
    assert "expected a token that is still good" in federation.err("join-carol")
    assert federation.names("requests") == ["alice"]
    assert len(federation.roll()["tokens"]) == 1


def test_trainer_accepted_while_away_joins_after_its_token_has_expired(federation: Federation) -> None:
    token = federation.token()
    federation.start_join("alice", token)
    federation.kill("join-alice")
    assert federation.fedmq("keys", "accept", "alice").returncode == 0
    late = federation.expire(token)
    assert federation.roll()["tokens"] == []

    done = federation.fedmq("trainer", "join", late, "--keys", "alice")

    assert done.returncode == 0, done.stderr


def test_token_of_another_federation_is_refused(federation: Federation) -> None:
    other = Federation(federation.folder / "other")
    other.folder.mkdir()
    assert other.fedmq("keys", "init", "--broker", federation.address).returncode == 0
    shutil.copy(federation.folder / "keys" / "federation.json", other.folder / "keys")

    done = federation.fedmq("trainer", "join", other.token("--name", "eve"), "--keys", "eve")

    assert done.returncode == 77
    assert "expected a token that is still good" in one_line(done)
    assert federation.names("requests") == []


def test_revoked_trainer_is_disconnected_and_joins_again_with_a_new_key(federation: Federation) -> None:
    federation.join("alice")
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 3, "rounds with alice")

    assert federation.fedmq("keys", "revoke", "alice").returncode == 0
    revoked = time.time()
    until(lambda: "does not let us in any more" in federation.err("alice"), "alice to be shut out", timeout_s=5)

    until(lambda: any(one["event"] == "trainer-left" for one in events_of(run)), "alice to be missed")
    late = [one["at"] - revoked for one in events_of(run) if one["event"] == "result-accepted"]
    assert max(late) < 1.0
    federation.kill("alice")
    again = federation.fedmq("trainer", "--keys", "alice", "--data", "linear:bob", "--min-rows", "1")
    assert again.returncode == 77
    assert "does not let us in" in one_line(again)
    shutil.rmtree(federation.folder / "alice")
    federation.join("alice")
    assert federation.names("members") == federation.names("revoked") == ["alice"]


def test_trainer_continues_with_a_replaced_key(federation: Federation) -> None:
    federation.join("alice")
    federation.make_older("alice")
    before = federation.fingerprint("alice")

    done = federation.fedmq("keys", "rotate", "--keys", "alice")

    assert done.returncode == 0, done.stderr
    (member,), (revoked,) = (federation.roll()[kind] for kind in ("members", "revoked"))
    assert revoked["fingerprint"] == before
    assert member["fingerprint"] in done.stdout
    assert sorted(path.name for path in (federation.folder / "alice").iterdir()) == ["federation.json", "trainer.key"]
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 2, "rounds with the new key")


@pytest.mark.parametrize("role", ["broker", "aggregator"])
def test_trainer_joins_again_after_new_keys_of_broker_or_aggregator(federation: Federation, role: str) -> None:
    federation.join("alice")
    done = federation.fedmq("keys", "rotate", role)
    assert done.returncode == 0, done.stderr
    assert "each trainer has to join again" in done.stdout
    federation.kill("broker")
    federation.start_broker()

    again = federation.fedmq("trainer", "join", federation.token(), "--keys", "alice")

    assert again.returncode == 0, again.stderr
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 2, "rounds with the new key")


def test_command_refuses_a_key_that_other_users_can_read(federation: Federation) -> None:
    federation.join("alice")
    key = federation.folder / "alice" / "trainer.key"
    key.chmod(0o644)

    for command in (["trainer", "--data", "xor:1/2"], ["keys", "rotate"], ["trainer", "join", federation.token()]):
        done = federation.fedmq(*command, "--keys", "alice")
        assert done.returncode == 78
        assert "expected mode 0600, got 0644: others can read it; chmod 600" in one_line(done)


def test_command_accepts_a_key_in_the_credentials_folder_of_systemd(federation: Federation) -> None:
    federation.join("alice")
    credentials = federation.folder / "credentials"
    shutil.copytree(federation.folder / "alice", credentials)
    (credentials / "trainer.key").chmod(0o440)
    arguments = ["trainer", "--data", "xor:1/2", "--connect-timeout", "0.1"]

    refused = federation.fedmq(*arguments, FEDMQ_KEYS=str(credentials))
    federation.kill("broker")
    taken = federation.fedmq(*arguments, FEDMQ_KEYS=str(credentials), CREDENTIALS_DIRECTORY=str(credentials))

    assert refused.returncode == 78
    assert taken.returncode == 69, taken.stderr  # it got so far as to look for the broker


def secrets_in(folder: Path) -> Iterator[bytes]:
    """The secret halves of all keys below."""
    for path in folder.rglob("*.key"):
        kept = json.loads(path.read_text())
        yield from (base64.b64decode(kept[name]) for name in ("transport_secret", "signing_secret"))


def spellings(secret: bytes) -> list[str]:
    coded = base64.b64encode(secret).decode().rstrip("=")
    safe = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return [secret.hex(), secret.hex().upper(), coded, safe, z85.encode(secret).decode(), repr(secret)[2:-1]]


def test_outputs_and_other_files_contain_no_secret(federation: Federation) -> None:
    token = federation.token()
    federation.start_join("alice", token)
    said = [federation.fedmq("keys", "accept", "alice", "--log-level", "debug")]
    federation.wait("join-alice")
    federation.make_older("alice")
    secrets = list(secrets_in(federation.folder))
    said.append(federation.fedmq("keys", "rotate", "--keys", "alice", "--log-level", "debug"))
    said.append(federation.fedmq("keys", "ls", "--log-level", "debug"))
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 2, "rounds")
    secrets += secrets_in(federation.folder)
    assert len(set(secrets)) == 8

    kept = [path for path in federation.folder.rglob("*") if path.is_file() and path.suffix != ".key"]
    texts = [one.stdout + one.stderr for one in said] + [path.read_bytes().decode("latin-1") for path in kept]

    assert "alice" in "".join(texts)
    assert [one for one in texts if token in one] == []
    assert [one for one in texts for secret in secrets for spelt in spellings(secret) if spelt in one] == []
