"""Keys and the folder of keys: secrets stay secret, and damaged files give one clear line."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from fedmq.errors import BadConfiguration
from fedmq.security.keyring import (
    FILE_BYTES_MAX,
    MEMBERS,
    REFRESH_S,
    FederationInfo,
    Members,
    find_broker,
    public_path,
    read_credentials,
    read_federation,
    read_publics,
    write_federation,
    write_identity,
    write_public,
)
from fedmq.security.keys import Identity, transport_pair, transport_public

ALICE = Identity.new("trainer", "alice")


def a_federation() -> FederationInfo:
    broker, aggregator = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    return FederationInfo(os.urandom(16), "tcp://127.0.0.1:7000", broker.public.transport, aggregator.public)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_federation(tmp_path / "keys", a_federation())
    write_identity(tmp_path / "keys", ALICE)
    return tmp_path / "keys"


# --- identities ----------------------------------------------------------------------------------------------------


def test_signature_is_valid_only_for_its_bytes_and_its_key() -> None:
    signature = ALICE.sign(b"text")
    assert ALICE.public.verifies(signature, b"text")
    assert not ALICE.public.verifies(signature, b"test")
    assert not Identity.new("trainer", "alice").public.verifies(signature, b"text")


@pytest.mark.parametrize("signature", [b"", b"x", bytes(63), bytes(64), bytes(65), b"\xff" * 64])
def test_malformed_signature_is_invalid_without_an_error(signature: bytes) -> None:
    assert not ALICE.public.verifies(signature, b"text")


def test_fingerprint_covers_every_field_of_an_identity() -> None:
    public = ALICE.public
    others = [
        msgspec.structs.replace(public, role="observer"),
        msgspec.structs.replace(public, name="alicf"),
        msgspec.structs.replace(public, transport=bytes(32)),
        msgspec.structs.replace(public, signing=bytes(32)),
    ]
    assert len({public.fingerprint, *(other.fingerprint for other in others)}) == 5
    assert [len(part) for part in public.fingerprint.split("-")] == [4] * 4


def test_repr_of_an_identity_has_no_secret() -> None:
    assert repr(ALICE) == str(ALICE) == "Identity(trainer alice)"


def test_public_key_of_a_transport_pair_belongs_to_its_secret() -> None:
    public, secret = transport_pair()
    assert transport_public(secret) == public


# --- the folder ----------------------------------------------------------------------------------------------------


def test_written_credentials_are_read_back(folder: Path) -> None:
    credentials = read_credentials(folder, "trainer")
    assert credentials.identity == ALICE
    assert credentials.federation == read_federation(folder)
    assert find_broker(None, folder, "trainer")[0] == "tcp://127.0.0.1:7000"
    assert find_broker("tcp://h:8000", folder, "trainer")[0] == "tcp://h:8000"


def test_secret_key_that_other_users_can_read_is_refused(folder: Path) -> None:
    path = folder / "trainer.key"
    assert path.stat().st_mode & 0o777 == 0o600
    for mode in (0o640, 0o604, 0o666, 0o602):
        path.chmod(mode)
        with pytest.raises(BadConfiguration, match=rf"0600.*{mode:04o}"):
            read_credentials(folder, "trainer")


def test_secret_key_in_the_credentials_folder_of_systemd_is_accepted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "trainer.key").chmod(0o440)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert read_credentials(folder, "trainer").identity == ALICE
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder / "elsewhere"))
    with pytest.raises(BadConfiguration, match="0600"):
        read_credentials(folder, "trainer")


@pytest.mark.parametrize("name", ["", "members", "federation.json"])
def test_folder_of_keys_that_others_can_change_is_refused_with_a_way_out(folder: Path, name: str) -> None:
    write_public(folder, MEMBERS, ALICE.public)
    path = folder / name
    for bits in (0o777, 0o770, 0o702):
        path.chmod(bits)
        with pytest.raises(BadConfiguration, match=rf"{bits:04o}.*chmod go-w {path}") as refusal:
            read_credentials(folder, "trainer")
        assert "\n" not in str(refusal.value)
    path.chmod(0o755)
    assert read_credentials(folder, "trainer").identity == ALICE


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("name", ["", "federation.json", "trainer.key"])
def test_folder_of_keys_with_a_file_of_another_user_is_refused(folder: Path, name: str) -> None:
    os.chown(folder / name, 65534, 65534)
    with pytest.raises(BadConfiguration, match=r"owner user root, got user .*: run this command as .*, or chown"):
        read_credentials(folder, "trainer")


def test_member_that_others_can_change_is_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_public(folder, MEMBERS, ALICE.public)
    public_path(folder, MEMBERS, ALICE.public).chmod(0o666)
    assert Members(folder).of_name("alice") is None
    assert "chmod go-w" in caplog.text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["federation.json", "trainer.key"])
def test_fifo_in_the_folder_of_keys_is_refused_without_waiting(folder: Path, name: str) -> None:
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(BadConfiguration):
        read_credentials(folder, "trainer")
    (folder / MEMBERS).mkdir()
    os.mkfifo(folder / MEMBERS / "aaaa-bbbb-cccc-dddd.json")
    assert read_publics(folder, MEMBERS) == []


def test_folder_of_keys_is_readable_through_links_of_a_mounted_secret(folder: Path) -> None:
    """As Kubernetes mounts a secret: each file is a link to the current version, in a folder of root."""
    (folder / "..data").mkdir()
    for name in ("federation.json", "trainer.key"):
        (folder / name).rename(folder / "..data" / name)
        (folder / name).symlink_to(f"..data/{name}")
    folder.chmod(0o1777)
    if os.geteuid() == 0:
        assert read_credentials(folder, "trainer").identity == ALICE


def test_existing_key_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"trainer\.key"):
        write_identity(folder, Identity.new("trainer", "other"))
    assert read_credentials(folder, "trainer").identity == ALICE


@pytest.mark.parametrize("name", ["federation.json", "trainer.key"])
@pytest.mark.parametrize("damage", ["empty", "half", "a byte more", "another field", "huge", "binary"])
def test_damaged_file_gives_one_line_without_a_secret(folder: Path, name: str, damage: str) -> None:
    path = folder / name
    text = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "half": text[: len(text) // 2],
            "a byte more": text + b"}",
            "another field": text.replace(b"{", b'{"admin": true,', 1),
            "huge": text + b" " * FILE_BYTES_MAX,
            "binary": os.urandom(200),
        }[damage]
    )
    with pytest.raises(BadConfiguration) as refusal:
        read_credentials(folder, "trainer")
    line = str(refusal.value)
    assert name in line
    assert "\n" not in line
    assert not any(line.count(text[at : at + 20].decode()) for at in range(len(text) - 20) if name == "trainer.key")


def test_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"federation\.json"):
        read_credentials(tmp_path / "nothing", "trainer")
    with pytest.raises(BadConfiguration, match=r"broker\.key"):
        read_credentials(folder, "broker")


def test_key_of_another_role_is_refused(folder: Path) -> None:
    shutil.copy(folder / "trainer.key", folder / "broker.key")
    with pytest.raises(BadConfiguration, match=r"broker\.key.*broker.*trainer"):
        read_credentials(folder, "broker")


# --- members -------------------------------------------------------------------------------------------------------


def test_members_are_refreshed_after_the_refresh_interval(tmp_path: Path) -> None:
    members = Members(tmp_path)  # without a folder
    assert members.of_key(ALICE.public.transport) is None
    write_public(tmp_path, MEMBERS, ALICE.public)
    assert members.refresh(REFRESH_S / 2) == []
    assert members.of_name("alice") is None
    assert members.refresh(REFRESH_S) == []
    assert members.of_name("alice") == members.of_key(ALICE.public.transport) == ALICE.public
    public_path(tmp_path, MEMBERS, ALICE.public).unlink()
    assert members.refresh(2 * REFRESH_S) == [ALICE.public]
    assert members.of_name("alice") is members.of_key(ALICE.public.transport) is None
    assert REFRESH_S <= 0.25


def test_member_is_accepted_once_its_damaged_file_is_complete(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = public_path(tmp_path, MEMBERS, ALICE.public)
    write_public(tmp_path, MEMBERS, ALICE.public)
    text = path.read_bytes()
    path.write_bytes(text[:40])  # a copy is in progress
    members = Members(tmp_path)
    for number in range(1, 5):
        members.refresh(REFRESH_S * number)
    assert members.of_name("alice") is None
    assert caplog.text.count(path.name) == 1
    path.write_bytes(text)
    members.refresh(REFRESH_S * 5)
    assert members.of_name("alice") == ALICE.public


def test_file_with_another_fingerprint_than_its_name_is_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_public(tmp_path, MEMBERS, ALICE.public)
    public_path(tmp_path, MEMBERS, ALICE.public).rename(tmp_path / MEMBERS / "aaaa-bbbb-cccc-dddd.json")
    assert read_publics(tmp_path, MEMBERS) == []
    assert Members(tmp_path).of_name("alice") is None
    assert ALICE.public.fingerprint in caplog.text


def test_two_members_with_one_name_are_both_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each could act as the other: a user has to decide."""
    write_public(tmp_path, MEMBERS, ALICE.public)
    members, other = Members(tmp_path), Identity.new("trainer", "alice").public
    write_public(tmp_path, MEMBERS, other)
    assert members.refresh(REFRESH_S) == [ALICE.public]
    assert members.of_name("alice") is members.of_key(ALICE.public.transport) is members.of_key(other.transport) is None
    assert "alice" in caplog.text
    public_path(tmp_path, MEMBERS, other).unlink()
    assert members.refresh(2 * REFRESH_S) == []
    assert members.of_name("alice") == ALICE.public


def test_two_members_with_one_transport_key_are_both_refused(tmp_path: Path) -> None:
    write_public(tmp_path, MEMBERS, ALICE.public)
    write_public(tmp_path, MEMBERS, msgspec.structs.replace(ALICE.public, name="bob"))
    members = Members(tmp_path)
    assert members.of_key(ALICE.public.transport) is members.of_name("alice") is members.of_name("bob") is None
