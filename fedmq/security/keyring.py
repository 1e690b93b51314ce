"""The folder of keys: the federation, this machine's own identity, and the members.

    federation.json     public: the federation's id, the broker's address, the keys of broker and aggregator
    broker.key          secret, on the broker's machine only; files with secrets have mode 0600
    aggregator.key      secret, on the aggregator's machine
    trainer.key         secret, on a trainer's machine
    observer.key        secret, on an observer's machine
    trainer.key.next    secret: a new key that is not accepted yet
    members/            public: one file for each accepted key, named by its fingerprint
    requests/           public: keys that wait for acceptance
    revoked/            public: keys that were accepted once
    tokens/             one file for each issued token, see `tokens`

A file in members, requests and revoked is named by its content. A listing of names therefore shows every change, and
accepting or revoking a key moves one file.

Functions raise BadConfiguration if a file is missing, damaged, exists already, or if other users can read a secret key
or change any file or folder.
"""

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import sync_folder, write_whole, writing
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.safe_files import check_secret, check_trusted, make_private_folder, open_regular, read_limited
from fedmq.security.keys import Identity, Key, PublicIdentity, Role, fingerprint_of
from fedmq.security.watched_folder import WatchedFolder
from fedmq.transport.address import DEFAULT_ADDRESS, full_address

CHOOSE_ANOTHER = "choose another --keys"
FEDERATION = "federation.json"
MEMBERS, REQUESTS, REVOKED, TOKENS = "members", "requests", "revoked", "tokens"
KEY_SUFFIX, NEXT_SUFFIX, PUBLIC_SUFFIX = ".key", ".key.next", ".json"
FILE_BYTES_MAX = 16 << 10
REFRESH_S = 0.25  # the longest time until a revocation takes effect
OBSERVER_ROLES: tuple[Role, ...] = ("observer", "aggregator")  # with a key that may watch runs

_T = TypeVar("_T")
log = logging.getLogger(__name__)


class FederationInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public facts that every member has: id, broker's address, and the keys to trust."""

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    broker: str  # address
    broker_key: Key  # for connections
    aggregator: PublicIdentity

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of the keys to trust, by role; members know no other part of the broker's identity."""
        broker = fingerprint_of(b"fedmq broker's key for connections\0" + self.broker_key)
        return {"broker": broker, "aggregator": self.aggregator.fingerprint}


class Credentials(NamedTuple):
    """A federation and this machine's identity in it."""

    federation: FederationInfo
    identity: Identity


def read_federation(folder: Path) -> FederationInfo:
    """Read the federation of a folder of keys, which no other user can change."""
    path = folder / FEDERATION
    check_keys_folder(folder)
    if not path.is_file():
        raise BadConfiguration(
            f"--keys {folder}: expected {FEDERATION} in it, got none: create a federation with fedmq keys init, or "
            "join one with fedmq trainer join"
        )
    return read_file(path, FederationInfo)


def read_credentials(folder: Path, role: Role) -> Credentials:
    """Read the federation of a folder of keys, and this machine's identity of that role."""
    federation, identity = read_federation(folder), read_identity(folder, role)
    if identity is None:
        raise BadConfiguration(
            f"--keys {folder}: expected {role}{KEY_SUFFIX} in it, got none: run this on the {role}'s machine"
        )
    return Credentials(federation, identity)


def read_identity(folder: Path, role: Role, suffix: str = KEY_SUFFIX) -> Identity | None:
    """Read this machine's identity of that role, or its next one (NEXT_SUFFIX); None without one."""
    path = folder / f"{role}{suffix}"
    if not path.is_file():
        return None
    identity = read_file(path, Identity, secret=not _is_from_systemd(path))
    if identity.role != role:
        raise BadConfiguration(f"{path}: expected the key of a {role}, got that of a {identity.role}")
    return identity


def find_broker(given: str | None, keys: Path | None, role: Role) -> tuple[str, Credentials | None]:
    """Return the broker's address and the credentials of that role; None without keys.

    The address is the given one, or the federation's, or the default.
    """
    credentials = None if keys is None else read_credentials(keys, role)
    address = given or (DEFAULT_ADDRESS if credentials is None else credentials.federation.broker)
    return full_address(address), credentials


def find_broker_to_watch(given: str | None, keys: Path | None) -> tuple[str, Credentials | None]:
    """As `find_broker`, for observers: with the key of an observer, or else of the aggregator."""
    if keys is None:
        return find_broker(given, None, OBSERVER_ROLES[0])
    read_federation(keys)
    for role in OBSERVER_ROLES:
        if (keys / f"{role}{KEY_SUFFIX}").is_file():
            return find_broker(given, keys, role)
    raise BadConfiguration(
        f"--keys {keys}: expected observer{KEY_SUFFIX} or aggregator{KEY_SUFFIX} in it, got neither: create one on "
        "the broker's machine with fedmq keys observer NAME --out DIR"
    )


def write_federation(folder: Path, federation: FederationInfo) -> None:
    """Write the federation; create the folder if it is missing."""
    write_file(folder / FEDERATION, federation)


def write_identity(folder: Path, identity: Identity, suffix: str = KEY_SUFFIX) -> Path:
    """Write an identity's secret keys with mode 0600; return the path."""
    path = folder / f"{identity.role}{suffix}"
    if path.exists():
        raise BadConfiguration(f"{path}: expected no such file: keys are never overwritten; choose another --keys")
    write_file(path, identity)
    return path


def adopt_next(folder: Path, role: Role) -> None:
    """Replace the identity of that role by the next one, which has been accepted."""
    path = folder / f"{role}{NEXT_SUFFIX}"
    with writing(path, CHOOSE_ANOTHER):
        path.replace(folder / f"{role}{KEY_SUFFIX}")
        sync_folder(folder)


def drop_next(folder: Path, role: Role) -> None:
    """Delete the next identity of that role, which has been rejected."""
    path = folder / f"{role}{NEXT_SUFFIX}"
    with writing(path, CHOOSE_ANOTHER):
        path.unlink()


def public_path(folder: Path, kind: str, public: PublicIdentity) -> Path:
    """Return the path of a public identity in `members`, `requests` or `revoked`."""
    return folder / kind / f"{public.fingerprint}{PUBLIC_SUFFIX}"


def write_public(folder: Path, kind: str, public: PublicIdentity) -> None:
    """Write a public identity into `members`, `requests` or `revoked`."""
    write_file(public_path(folder, kind, public), public)


def move_public(folder: Path, public: PublicIdentity, source: str, target: str) -> None:
    """Move a public identity between two of the three folders, atomically."""
    path = public_path(folder, target, public)
    with writing(path, CHOOSE_ANOTHER):
        make_private_folder(path.parent)
        public_path(folder, source, public).replace(path)
        sync_folder(path.parent)
        sync_folder(folder / source)


def read_publics(folder: Path, kind: str) -> list[PublicIdentity]:
    """Read `members`, `requests` or `revoked`, sorted by name; damaged files are skipped with a warning."""
    watched = watch_publics(folder, kind)
    watched.refresh(0.0)
    return sorted(watched.files.values(), key=lambda public: public.name)


def watch_publics(folder: Path, kind: str) -> WatchedFolder[PublicIdentity]:
    """Return `members`, `requests` or `revoked` in memory."""
    return WatchedFolder(folder / kind, PUBLIC_SUFFIX, _read_public, REFRESH_S)


class Members:
    """The accepted keys of the folder `members`, read again every REFRESH_S. Safe to call from any thread.

    Of several members with one name, or with one transport key, none is accepted: each could act as the other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = watch_publics(folder, MEMBERS)
        self._by_key: dict[bytes, PublicIdentity] = {}
        self._by_name: dict[str, PublicIdentity] = {}
        self.refresh(0.0)

    @property
    def files(self) -> list[PublicIdentity]:
        """All identities in the folder, also those that are not accepted."""
        return list(self._folder.files.values())

    def of_key(self, transport: bytes) -> PublicIdentity | None:
        return self._by_key.get(transport)

    def of_name(self, name: str) -> PublicIdentity | None:
        return self._by_name.get(name)

    def refresh(self, now: float) -> list[PublicIdentity]:
        """Read the folder again if REFRESH_S have passed; return the identities that are no longer members."""
        if not self._folder.refresh(now):
            return []
        names = Counter(public.name for public in self.files)
        keys = Counter(public.transport for public in self.files)
        unique = [one for one in self.files if names[one.name] == keys[one.transport] == 1]
        for name, count in names.items():
            if count > 1:
                log.warning("%s members are named %s; none is accepted: fedmq keys revoke all but one", count, name)
        before, self._by_key = self._by_key, {public.transport: public for public in unique}
        self._by_name = {public.name: public for public in unique}
        return [public for key, public in before.items() if self._by_key.get(key) != public]

    def expire(self) -> None:
        """Make the next refresh read the folder again: it has been written to."""
        self._folder.expire()


def _read_public(path: Path) -> PublicIdentity | None:
    """Read a public identity; None, with a warning, if the file is damaged or does not match its name.

    Raises:
        OSError: it cannot be read.
    """
    try:
        public = read_file(path, PublicIdentity)
        if path.name != f"{public.fingerprint}{PUBLIC_SUFFIX}":
            raise BadConfiguration(f"{path}: expected the keys of its name, got those of {public.fingerprint}: ignored")
    except BadConfiguration as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        log.warning("%s", error)
        return None
    return public


def read_file(path: Path, kind: type[_T], *, secret: bool = False) -> _T:
    """Read a file of the folder of keys, which no other user can change, or even read if it is `secret`."""
    try:
        with open_regular(path) as file:
            (check_secret if secret else check_trusted)(path, os.fstat(file.fileno()))
            return msgspec.json.decode(read_limited(file, path, FILE_BYTES_MAX), type=kind)
    except OSError as error:
        raise BadConfiguration(f"{path}: cannot be read ({error.strerror})") from error
    except MALFORMED as error:
        raise BadConfiguration(f"{path}: damaged ({error})") from error


def _is_from_systemd(path: Path) -> bool:
    """Return whether systemd provides a file: it is private by its folder, and its mode may allow the group to read."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return credentials is not None and path.resolve().is_relative_to(Path(credentials).resolve())


def write_file(path: Path, value: object) -> None:
    """Write a value as a private file of the folder of keys, as indented JSON; create the folder if it is missing."""
    with writing(path, CHOOSE_ANOTHER):
        make_private_folder(path.parent)
        check_trusted(path.parent, path.parent.stat())
        write_whole(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def check_keys_folder(folder: Path) -> None:
    """Check that no other user can change a folder of keys or one of its folders, and so add a member.

    Raises:
        BadConfiguration: another user can.
    """
    for path in (folder, *(folder / name for name in (MEMBERS, REQUESTS, REVOKED, TOKENS))):
        try:
            check_trusted(path, path.stat())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise BadConfiguration(f"{path}: cannot be read ({error.strerror})") from error
