"""The folder of keys: a federation as this machine knows it, this machine's own identity, and who is a member.

    federation.json     public: the federation's id, where its broker is, and the keys of broker and aggregator
    broker.key          secret: only on the broker's machine,
    aggregator.key      on the aggregator's,
    trainer.key         on a trainer's,
    observer.key        or on the machine of who only watches; mode 0600, and refused when others can read it
    trainer.key.next    secret: a key that was made here and is not accepted yet
    members/            public: one file for each key that is let in, named by its fingerprint
    requests/           who asked to be let in and was not yet accepted,
    revoked/            and who was let in once and is not any more
    tokens/             what is known of each token that is outstanding, see `token`

Knows nothing of what the keys are used for. A file in members, requests and revoked holds what its name says, so that a
change is seen by its name alone, and moving a file is all that accepting or revoking is.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from fedmq.errors import BadConfiguration
from fedmq.runtime.atomic_files import sync_folder, write_whole, writing
from fedmq.security.keys import Identity, Key, PublicIdentity, Role
from fedmq.transport.address import DEFAULT_ADDRESS, parse_address

CHOOSE_ANOTHER = "choose another --keys"
FEDERATION = "federation.json"
MEMBERS, REQUESTS, REVOKED = "members", "requests", "revoked"
KEY_SUFFIX, NEXT_SUFFIX, PUBLIC_SUFFIX = ".key", ".key.next", ".json"
FILE_BYTES_MAX = 16 << 10
REFRESH_S = 0.25  # a revocation is seen within it
OBSERVER_ROLES: tuple[Role, ...] = ("observer", "aggregator")  # who may watch: an operator holds the aggregator's key

_T = TypeVar("_T")
log = logging.getLogger(__name__)


class FederationInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all members know: which federation it is, where its broker is, and whom to believe."""

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    broker: str  # its address
    broker_key: Key  # of its transport
    aggregator: PublicIdentity


class Credentials(NamedTuple):
    """A federation and who we are in it."""

    federation: FederationInfo
    identity: Identity


def read_federation(folder: Path) -> FederationInfo:
    """The federation in a folder of keys.

    Raises:
        BadConfiguration: there is none, or the file is not as it was written.
    """
    path = folder / FEDERATION
    if not path.is_file():
        raise BadConfiguration(
            f"--keys {folder}: expected {FEDERATION} in it, got none; fedmq keys init makes a federation, "
            "fedmq trainer join TOKEN joins one"
        )
    return read_file(path, FederationInfo)


def read_credentials(folder: Path, role: Role) -> Credentials:
    """The federation in a folder of keys, and this machine's identity of that role.

    Raises:
        BadConfiguration: they are not there, not as they were written, or the key can be read by others.
    """
    federation, identity = read_federation(folder), read_identity(folder, role)
    if identity is None:
        raise BadConfiguration(
            f"--keys {folder}: expected {role}{KEY_SUFFIX} in it, got none; is this the {role}'s machine?"
        )
    return Credentials(federation, identity)


def read_identity(folder: Path, role: Role, suffix: str = KEY_SUFFIX) -> Identity | None:
    """This machine's identity of that role, or the next one (NEXT_SUFFIX); None if there is none.

    Raises:
        BadConfiguration: it is not as it was written, or can be read by others.
    """
    path = folder / f"{role}{suffix}"
    if not path.is_file():
        return None
    _check_private(path)
    identity = read_file(path, Identity)
    if identity.role != role:
        raise BadConfiguration(f"{path}: expected the key of a {role}, got that of a {identity.role}")
    return identity


def find_broker(given: str | None, keys: Path | None, role: Role) -> tuple[str, Credentials | None]:
    """Where the broker is, and who we are there: as the command line says, or the federation, or the defaults."""
    credentials = None if keys is None else read_credentials(keys, role)
    address = given or (DEFAULT_ADDRESS if credentials is None else credentials.federation.broker)
    parse_address(address)
    return address, credentials


def find_broker_to_watch(given: str | None, keys: Path | None) -> tuple[str, Credentials | None]:
    """As `find_broker`, for who only watches: with the key of an observer, or else of the aggregator.

    Raises:
        BadConfiguration: neither is there, or as `read_credentials` says.
    """
    if keys is None:
        return find_broker(given, None, OBSERVER_ROLES[0])
    read_federation(keys)
    for role in OBSERVER_ROLES:
        if (keys / f"{role}{KEY_SUFFIX}").is_file():
            return find_broker(given, keys, role)
    raise BadConfiguration(
        f"--keys {keys}: expected observer{KEY_SUFFIX} or aggregator{KEY_SUFFIX} in it, got neither; "
        "on the broker's machine fedmq keys observer NAME --out DIR makes one"
    )


def write_federation(folder: Path, federation: FederationInfo) -> None:
    """Make the folder, or the federation in it, what is given."""
    with writing(folder, CHOOSE_ANOTHER):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(folder / FEDERATION, text_of(federation))


def write_identity(folder: Path, identity: Identity, suffix: str = KEY_SUFFIX) -> Path:
    """Keep an identity's secret keys, for nobody else to read; the path.

    Raises:
        BadConfiguration: there is one of that role already: it is never overwritten.
    """
    path = folder / f"{identity.role}{suffix}"
    if path.exists():
        raise BadConfiguration(f"{path}: there is one already, and keys are never overwritten; choose another --keys")
    with writing(path, CHOOSE_ANOTHER):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, text_of(identity), mode=0o600)
    return path


def adopt_next(folder: Path, role: Role) -> None:
    """The next identity of that role is accepted: from now on it is the identity."""
    path = folder / f"{role}{NEXT_SUFFIX}"
    with writing(path, CHOOSE_ANOTHER):
        path.replace(folder / f"{role}{KEY_SUFFIX}")
        sync_folder(folder)


def drop_next(folder: Path, role: Role) -> None:
    """The next identity of that role was not accepted: it is good for nothing."""
    path = folder / f"{role}{NEXT_SUFFIX}"
    with writing(path, CHOOSE_ANOTHER):
        path.unlink()


def public_path(folder: Path, kind: str, public: PublicIdentity) -> Path:
    """Where the public half of an identity stands, in `members`, `requests` or `revoked`."""
    return folder / kind / f"{public.fingerprint}{PUBLIC_SUFFIX}"


def write_public(folder: Path, kind: str, public: PublicIdentity) -> None:
    """Put an identity among the members, the requests or the revoked."""
    path = public_path(folder, kind, public)
    with writing(path, CHOOSE_ANOTHER):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, text_of(public))


def move_public(folder: Path, public: PublicIdentity, source: str, target: str) -> None:
    """From one of the three folders to another, at once: there is no moment at which it stands in neither."""
    path = public_path(folder, target, public)
    with writing(path, CHOOSE_ANOTHER):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        public_path(folder, source, public).replace(path)
        sync_folder(path.parent)
        sync_folder(folder / source)


def read_publics(folder: Path, kind: str) -> list[PublicIdentity]:
    """All of `members`, `requests` or `revoked`, by name; a file that is not as it was written is left out."""
    found = (_read_public(path) for path in sorted((folder / kind).glob(f"*{PUBLIC_SUFFIX}")))
    return sorted((public for public in found if public is not None), key=lambda public: public.name)


class Members:
    """Who is let in, as the folder `members` says; looked at again every REFRESH_S. Any thread may ask.

    Of several with one name, or one transport key, none is: each could speak for the other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / MEMBERS
        self._seen: dict[str, int] = {}  # the files that have been looked at, and when they were last changed
        self._files: dict[str, PublicIdentity] = {}
        self._by_key: dict[bytes, PublicIdentity] = {}
        self._by_name: dict[str, PublicIdentity] = {}
        self._next = 0.0
        self.refresh(0.0)

    def of_key(self, transport: bytes) -> PublicIdentity | None:
        """The member with this transport key."""
        return self._by_key.get(transport)

    def of_name(self, name: str) -> PublicIdentity | None:
        """The member of this name."""
        return self._by_name.get(name)

    def refresh(self, now: float) -> list[PublicIdentity]:
        """Look again if it is time; who is not a member any more."""
        if now < self._next:
            return []
        self._next = now + REFRESH_S
        found = self._look()
        if found == self._seen:
            return []
        self._files = {name: public for name, public in self._files.items() if found.get(name) == self._seen[name]}
        for name in sorted(name for name in found if name not in self._files):
            if found[name] != self._seen.get(name) and (public := _read_public(self._folder / name)) is not None:
                self._files[name] = public
        self._seen = found
        names = Counter(public.name for public in self._files.values())
        keys = Counter(public.transport for public in self._files.values())
        alone = [one for one in self._files.values() if names[one.name] == keys[one.transport] == 1]
        for name, count in names.items():
            if count > 1:
                log.warning("%s members are named %s, and none is let in: fedmq keys revoke all but one", count, name)
        before, self._by_key = self._by_key, {public.transport: public for public in alone}
        self._by_name = {public.name: public for public in alone}
        return [public for key, public in before.items() if self._by_key.get(key) != public]

    def _look(self) -> dict[str, int]:
        try:
            with os.scandir(self._folder) as entries:
                return {entry.name: entry.stat().st_mtime_ns for entry in entries if entry.name.endswith(PUBLIC_SUFFIX)}
        except FileNotFoundError:  # there is no folder, or a file went while we looked: the next look is soon
            return {} if not self._folder.is_dir() else self._seen


def names_in(folder: Path) -> set[str]:
    """The names of the files of a folder of publics or tokens, without those that are being written."""
    try:
        return {entry.name for entry in os.scandir(folder) if entry.name.endswith(PUBLIC_SUFFIX)}
    except FileNotFoundError:
        return set()


def _read_public(path: Path) -> PublicIdentity | None:
    """A file of one of the three folders; None, with a line, when it does not hold what its name says."""
    try:
        public = read_file(path, PublicIdentity)
        if path.name != f"{public.fingerprint}{PUBLIC_SUFFIX}":
            raise BadConfiguration(f"{path}: expected the keys that its name says, got others: left out")
    except BadConfiguration as error:
        log.warning("%s", error)
        return None
    return public


def read_file(path: Path, kind: type[_T]) -> _T:
    """What a file of the folder holds.

    Raises:
        BadConfiguration: it cannot be read, or is not as it was written.
    """
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise BadConfiguration(f"{path}: expected at most {FILE_BYTES_MAX} bytes, got more")
        return msgspec.json.decode(text, type=kind)
    except OSError as error:
        raise BadConfiguration(f"{path}: cannot be read ({error.strerror})") from error
    except msgspec.MsgspecError as error:
        raise BadConfiguration(f"{path}: not as fedmq wrote it ({error})") from error


def _check_private(path: Path) -> None:
    """Nothing, if nobody else can read the file. What systemd hands over is private by its folder."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and path.resolve().is_relative_to(Path(credentials).resolve()):
        return
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise BadConfiguration(f"{path}: expected mode 0600, got {mode:04o}: others can read it; chmod 600 {path}")


def text_of(value: object) -> bytes:
    """How a file of the folder holds a value: JSON that a person can read."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
