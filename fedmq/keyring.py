"""The folder of keys: a federation as this machine knows it, this machine's own identity, and who is a member.

    federation.json     public: the federation's id, where its broker is, and the keys of broker and aggregator
    broker.key          secret: only on the broker's machine,
    aggregator.key      on the aggregator's,
    trainer.key         or on a trainer's; mode 0600, and refused when others can read it
    members/            public: one file for each key that is let in, named by its fingerprint
    requests/           who asked to be let in and was not yet accepted,
    revoked/            and who was let in once and is not any more

Knows nothing of what the keys are used for. A file in the three folders holds what its name says, so that a change is
seen by its name alone, and moving a file is all that accepting or revoking is.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from fedmq.address import DEFAULT_ADDRESS, parse_address
from fedmq.errors import BadConfiguration
from fedmq.files import write_whole
from fedmq.keys import Identity, Key, Public, Role

FEDERATION = "federation.json"
MEMBERS, REQUESTS, REVOKED = "members", "requests", "revoked"
KEY_SUFFIX, PUBLIC_SUFFIX = ".key", ".json"
FILE_BYTES_MAX = 16 << 10
REFRESH_S = 0.25  # a revocation is seen within it

_T = TypeVar("_T")
log = logging.getLogger(__name__)


class Federation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What all members know: which federation it is, where its broker is, and whom to believe."""

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    broker: str  # its address
    broker_key: Key  # of its transport
    aggregator: Public


class Membership(NamedTuple):
    """A federation and who we are in it."""

    federation: Federation
    identity: Identity


def read_federation(folder: Path) -> Federation:
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
    return _read(path, Federation)


def read_membership(folder: Path, role: Role) -> Membership:
    """The federation in a folder of keys, and this machine's identity of that role.

    Raises:
        BadConfiguration: they are not there, not as they were written, or the key can be read by others.
    """
    federation, path = read_federation(folder), folder / f"{role}{KEY_SUFFIX}"
    if not path.is_file():
        raise BadConfiguration(f"--keys {folder}: expected {path.name} in it, got none; is this the {role}'s machine?")
    _check_private(path)
    identity = _read(path, Identity)
    if identity.role != role:
        raise BadConfiguration(f"{path}: expected the key of a {role}, got that of a {identity.role}")
    return Membership(federation, identity)


def find_broker(given: str | None, keys: Path | None, role: Role) -> tuple[str, Membership | None]:
    """Where the broker is, and who we are there: as the command line says, or the federation, or the defaults."""
    membership = None if keys is None else read_membership(keys, role)
    address = given or (DEFAULT_ADDRESS if membership is None else membership.federation.broker)
    parse_address(address)
    return address, membership


def write_federation(folder: Path, federation: Federation) -> None:
    """Make the folder, or the federation in it, what is given."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(folder / FEDERATION, _text(federation))
    except OSError as error:
        raise BadConfiguration(f"{folder}: cannot be written ({error.strerror}); choose another with --keys") from error


def write_identity(folder: Path, identity: Identity) -> Path:
    """Keep an identity's secret keys, for nobody else to read; the path.

    Raises:
        BadConfiguration: there is one of that role already: it is never overwritten.
    """
    path = folder / f"{identity.role}{KEY_SUFFIX}"
    if path.exists():
        raise BadConfiguration(f"{path}: there is one already, and keys are never overwritten; choose another --keys")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, _text(identity), mode=0o600)
    except OSError as error:
        raise BadConfiguration(f"{path}: cannot be written ({error.strerror}); choose another --keys") from error
    return path


def public_path(folder: Path, kind: str, public: Public) -> Path:
    """Where the public half of an identity stands, in `members`, `requests` or `revoked`."""
    return folder / kind / f"{public.fingerprint}{PUBLIC_SUFFIX}"


def write_public(folder: Path, kind: str, public: Public) -> None:
    """Put an identity among the members, the requests or the revoked."""
    path = public_path(folder, kind, public)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(path, _text(public))


def read_publics(folder: Path, kind: str) -> list[Public]:
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
        self._files: dict[str, Public] = {}
        self._by_key: dict[bytes, Public] = {}
        self._by_name: dict[str, Public] = {}
        self._next = 0.0
        self.refresh(0.0)

    def of_key(self, transport: bytes) -> Public | None:
        """The member with this transport key."""
        return self._by_key.get(transport)

    def of_name(self, name: str) -> Public | None:
        """The member of this name."""
        return self._by_name.get(name)

    def refresh(self, now: float) -> list[Public]:
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


def _read_public(path: Path) -> Public | None:
    """A file of one of the three folders; None, with a line, when it does not hold what its name says."""
    try:
        public = _read(path, Public)
        if path.name != f"{public.fingerprint}{PUBLIC_SUFFIX}":
            raise BadConfiguration(f"{path}: expected the keys that its name says, got others: left out")
    except BadConfiguration as error:
        log.warning("%s", error)
        return None
    return public


def _read(path: Path, kind: type[_T]) -> _T:
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


def _text(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
