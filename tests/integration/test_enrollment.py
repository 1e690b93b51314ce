"""`fedmq keys` and `fedmq trainer join`, used and misused, as real processes on this machine."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from enrolled import Federation, one_line
from services import closed, events_of, until, without_notices
from zmq.utils import z85

from fedmq.cli import main
from fedmq.security.keyring import read_federation


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    with Federation(tmp_path) as running:
        running.make()
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a federation without processes; tests do not change it."""
    folder = tmp_path_factory.mktemp("home")
    offline = Federation(folder)
    assert offline.fedmq("keys", "init", "--broker", offline.address).returncode == 0
    (folder / "expired").write_text(offline.expire(offline.token()))
    (folder / "good").write_text(offline.token("--name", "alice"))  # and what has expired goes
    return folder


WRONG_USES = [
    (["keys", "init"], 2, "--broker"),
    (["keys", "init", "--broker", "here"], 78, "'here'"),
    (["keys", "init", "--broker", "tcp://0.0.0.0:5550"], 78, "tcp://0.0.0.0:5550"),
    (["keys", "init", "--broker", "tcp://192.0.2.1:5550"], 78, "federation.json"),
    (["keys", "init", "--broker", "tcp://192.0.2.1:5550", "--keys", "good"], 2, "good"),
    (["keys", "token", "--keys", "nowhere"], 78, "federation.json"),
    (["keys", "token", "--hours", "0"], 2, "--hours"),
    (["keys", "token", "--hours", "soon"], 2, "--hours"),
    (["keys", "token", "--name", "a b"], 2, "'a b'"),
    (["keys", "token", "--name", "aggregator"], 78, "--name aggregator"),
    (["keys", "ls", "--keys", "nowhere"], 78, "federation.json"),
    (["keys", "ls", "everything"], 2, "everything"),
    (["keys", "accept"], 2, "MEMBER"),
    (["keys", "accept", "k7fq"], 78, "k7fq"),
    (["keys", "accept", "alice", "--keys", "nowhere"], 78, "federation.json"),
    (["keys", "reject", "k7fq"], 78, "k7fq"),
    (["keys", "revoke", "alice"], 78, "alice"),
    (["keys", "rotate"], 78, "trainer.key"),
    (["keys", "rotate", "alice"], 2, "alice"),
    (["keys", "rotate", "broker", "--keys", "nowhere"], 78, "federation.json"),
    (["keys", "acept", "k7fq"], 2, "acept"),
    (["keys", "token", "--no-such-option"], 2, "--no-such-option"),
    (["trainer", "join"], 78, "fedmq1-"),
    (["trainer", "join", "fedmq1-abc"], 2, "FILE"),
    (["trainer", "join", "nowhere"], 78, "nowhere"),
    (["trainer", "join", "keys/federation.json"], 78, "fedmq1-"),
    (["trainer", "join", "good", "--name", "bob"], 78, "--name alice"),
    (["trainer", "join", "good", "--name", "a b"], 2, "'a b'"),
    (["trainer", "join", "expired", "--keys", "new"], 77, "fedmq keys token"),
    (["trainer", "--name", "alice", "join", "good"], 2, "--name"),
    (["trainer", "joni", "good"], 2, "joni"),
    (["trainer"], 2, "--data"),
    (["trainer", "--keys", "nowhere", "--data", "xor:1/2"], 78, "federation.json"),
    (["trainer", "--keys", "keys", "--data", "xor:1/2"], 78, "trainer.key"),
    (["broker", "--keys", "nowhere"], 78, "federation.json"),
    (["broker", "--keys", "keys", "--bind", "192.0.2.1"], 78, "192.0.2.1"),
    (["broker", "--bind", "192.0.2.1"], 78, "192.0.2.1"),
    (["aggregator", "--task", "xor", "--keys", "nowhere"], 78, "federation.json"),
]


@pytest.mark.parametrize(("arguments", "code", "named"), WRONG_USES, ids=[" ".join(one[0]) for one in WRONG_USES])
def test_wrong_use_gives_one_line_and_an_exit_code(
    home: Path,
    arguments: list[str],
    code: int,
    named: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = sorted(home.rglob("*"))

    if arguments[0] == "keys":  # these commands need no process of their own
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["fedmq", *arguments])
        returned = main._run(debug=False)
        done = CompletedProcess(arguments, returned or 0, *capsys.readouterr())
    else:
        done = Federation(home).fedmq(*arguments)

    assert (done.returncode, done.stdout) == (code, "")
    assert named in one_line(done)
    assert sorted(home.rglob("*")) == before


def test_accepted_trainer_trains_and_rejected_trainer_does_not(federation: Federation) -> None:
    federation.start_join("alice", federation.token())
    federation.start_join("mallory", federation.token("--name", "mallory"))
    assert federation.names("requests") == ["alice", "mallory"]

    assert federation.fedmq("keys", "reject", federation.fingerprint("mallory")).returncode == 0
    accepted = federation.fedmq("keys", "accept", federation.fingerprint("alice"))

    assert accepted.returncode == 0, accepted.stderr
    assert federation.wait("join-mallory") == 77
    assert "mallory" in federation.err("join-mallory")
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
    assert without_notices(federation.err("join-alice")).count("\n") == 1

    federation.start_join("alice", token)
    fingerprint = federation.fingerprint("alice")
    federation.kill("join-alice")
    assert federation.fedmq("keys", "accept", fingerprint).returncode == 0
    done = federation.fedmq("trainer", "join", "--keys", "alice", FEDMQ_TOKEN=token)

    assert done.returncode == 0, done.stderr
    assert fingerprint in done.stdout
    again = federation.fedmq("trainer", "join", "--keys", "alice", FEDMQ_TOKEN=token)
    assert again.returncode == 0, again.stderr
    # The broker reads the accepted member a moment later, so only the first join may say that it waits.
    assert again.stdout.splitlines() == [done.stdout.splitlines()[0], done.stdout.splitlines()[-1]]


def test_join_survives_a_kill_of_the_broker(federation: Federation) -> None:
    federation.start_join("alice", federation.token())
    before = federation.err("join-alice").count("is connected")
    federation.kill("broker")
    until(lambda: "is disconnected" in federation.err("join-alice"), "a line about the lost broker")
    federation.start_broker()
    until(lambda: federation.err("join-alice").count("is connected") > before, "a line about the broker's return")

    assert federation.fedmq("keys", "accept", federation.fingerprint("alice")).returncode == 0

    assert federation.wait("join-alice") == 0, federation.err("join-alice")


def test_used_expired_or_foreign_token_is_refused(federation: Federation) -> None:
    token, short = federation.token(), federation.token()
    federation.start_join("alice", token)
    federation.start("bob", "trainer", "join", "--name", "bob", "--keys", "bob", FEDMQ_TOKEN=token)
    federation.start_join("carol", short)
    federation.expire(short)
    other = Federation(federation.folder / "other")
    other.folder.mkdir()
    assert other.fedmq("keys", "init", "--broker", federation.address).returncode == 0
    shutil.copy(federation.folder / "keys" / "federation.json", other.folder / "keys")
    foreign = federation.fedmq("trainer", "join", "--keys", "eve", FEDMQ_TOKEN=other.token("--name", "eve"))

    assert foreign.returncode == 77
    assert "fedmq keys token" in one_line(foreign)
    assert federation.wait("join-carol") == 77
    assert "fedmq keys token" in federation.err("join-carol")
    assert federation.wait("bob") == 77  # after ten seconds without an answer
    assert without_notices(federation.err("bob")).count("\n") == 1
    assert "bob" in federation.err("bob")
    assert federation.names("requests") == ["alice"]
    assert len(federation.membership()["tokens"]) == 1


def test_trainer_accepted_while_away_joins_after_its_token_has_expired(federation: Federation) -> None:
    token = federation.token()
    federation.start_join("alice", token)
    federation.kill("join-alice")
    assert federation.fedmq("keys", "accept", federation.fingerprint("alice")).returncode == 0
    late = federation.expire(token)
    assert federation.membership()["tokens"] == []

    done = federation.fedmq("trainer", "join", "--keys", "alice", FEDMQ_TOKEN=late)

    assert done.returncode == 0, done.stderr


def test_token_is_pasted_or_read_from_a_file(federation: Federation) -> None:
    """Every user of a machine can read arguments, but neither files, nor pipes, nor the environment of others."""
    token = federation.token()
    (federation.folder / "token").write_text(f"{token}\n")
    for name, source in (("alice", "token"), ("bob", "-")):
        arguments = ["trainer", "join", source, "--name", name, "--keys", name]
        federation.start(name, *arguments, FEDMQ_TOKEN="wrong")  # noqa: S106
    assert federation.wait("bob") == 78  # its standard input is empty
    until(lambda: "waiting until" in federation.out("alice"), "alice to wait")

    refused = federation.fedmq("trainer", "join", token, "--name", "carol", "--keys", "carol")

    assert refused.returncode == 2
    assert token not in refused.stdout + refused.stderr
    assert not (federation.folder / "carol").exists()


def test_revoked_trainer_is_disconnected_and_joins_again_with_a_new_key(federation: Federation) -> None:
    federation.join("alice")
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 3, "rounds with alice")

    assert federation.fedmq("keys", "revoke", "alice").returncode == 0
    revoked = time.time()
    until(lambda: federation.address in federation.err("alice"), "alice to be disconnected")

    until(lambda: any(one["event"] == "trainer-left" for one in events_of(run)), "the aggregator to notice")
    late = [one["at"] - revoked for one in events_of(run) if one["event"] == "result-accepted"]
    assert max(late) < 10.0  # without a load it takes at most one second (test_keys.py)
    federation.kill("alice")
    again = federation.fedmq("trainer", "--keys", "alice", "--data", "linear:bob", "--min-rows", "1")
    assert again.returncode == 77
    assert "--keys" in one_line(again)
    shutil.rmtree(federation.folder / "alice")
    federation.join("alice")
    assert federation.names("members") == federation.names("revoked") == ["alice"]


def test_trainer_continues_with_a_replaced_key(federation: Federation) -> None:
    federation.join("alice")
    before = federation.fingerprint("alice")

    done = federation.fedmq("keys", "rotate", "--keys", "alice")

    assert done.returncode == 0, done.stderr
    (member,), (revoked,) = (federation.membership()[kind] for kind in ("members", "revoked"))
    assert revoked["fingerprint"] == before
    assert member["fingerprint"] in done.stdout
    assert sorted(path.name for path in (federation.folder / "alice").iterdir()) == ["federation.json", "trainer.key"]
    again = federation.fedmq("keys", "rotate", "--keys", "alice")
    assert again.returncode == 77
    assert "4 hours" in one_line(again)
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 2, "rounds with the new key")


@pytest.mark.parametrize("role", ["broker", "aggregator"])
def test_trainer_joins_again_after_new_keys_of_broker_or_aggregator(federation: Federation, role: str) -> None:
    federation.join("alice")
    before = read_federation(federation.folder / "alice").fingerprints[role]
    done = federation.fedmq("keys", "rotate", role)
    assert done.returncode == 0, done.stderr
    assert "fedmq trainer join --replace-keys" in done.stdout
    federation.kill("broker")
    federation.start_broker()
    token, shown = federation.token(), federation.membership()["own"][role]  # type: ignore[call-overload]

    refused = federation.fedmq("trainer", "join", "--keys", "alice", FEDMQ_TOKEN=token)
    again = federation.fedmq("trainer", "join", "--keys", "alice", "--replace-keys", FEDMQ_TOKEN=token)

    assert refused.returncode == 78
    assert f"{role} {before}" in one_line(refused)
    assert f"{role} {shown}" in one_line(refused)
    assert shown in done.stdout
    assert again.returncode == 0, again.stderr
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 2, "rounds with the new key")


def test_command_refuses_a_key_that_other_users_can_read(federation: Federation) -> None:
    federation.join("alice")
    key = federation.folder / "alice" / "trainer.key"
    key.chmod(0o644)

    for command in (["trainer", "--data", "xor:1/2"], ["keys", "rotate"], ["trainer", "join"]):
        done = federation.fedmq(*command, "--keys", "alice", FEDMQ_TOKEN=federation.token())
        assert done.returncode == 78
        assert f"chmod 600 alice{os.sep}trainer.key" in one_line(done)


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
    assert taken.returncode == 69, taken.stderr  # it accepted the key, and looked for the broker


def secrets_in(folder: Path) -> Iterator[bytes]:
    """Yield the secret halves of all keys below a folder."""
    for path in folder.rglob("*.key"):
        kept = json.loads(path.read_text())
        yield from (base64.b64decode(kept[name]) for name in ("transport_secret", "signing_secret"))


def encodings(secret: bytes) -> list[str]:
    coded = base64.b64encode(secret).decode().rstrip("=")
    safe = base64.urlsafe_b64encode(secret).decode().rstrip("=")
    return [secret.hex(), secret.hex().upper(), coded, safe, z85.encode(secret).decode(), repr(secret)[2:-1]]


def test_outputs_and_other_files_contain_no_secret(federation: Federation) -> None:
    token = federation.token()
    federation.start_join("alice", token)
    done = [federation.fedmq("keys", "accept", federation.fingerprint("alice"), "--log-level", "debug")]
    federation.wait("join-alice")
    secrets = list(secrets_in(federation.folder))
    done.append(federation.fedmq("keys", "rotate", "--keys", "alice", "--log-level", "debug"))
    done.append(federation.fedmq("keys", "ls", "--log-level", "debug"))
    run = federation.start_endless("alice")
    until(lambda: closed(run) >= 2, "rounds")
    secrets += secrets_in(federation.folder)
    assert len(set(secrets)) == 8
    for name in ("aggregator", "alice", "broker"):  # they write, rename and remove files
        federation.kill(name)

    kept = [path for path in federation.folder.rglob("*") if path.is_file() and path.suffix != ".key"]
    texts = [one.stdout + one.stderr for one in done] + [path.read_bytes().decode("latin-1") for path in kept]

    assert "alice" in "".join(texts)
    assert [one for one in texts if token in one] == []
    assert [one for one in texts for secret in secrets for encoded in encodings(secret) if encoded in one] == []
