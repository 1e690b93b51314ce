"""Tokens: a line that invites one machine to a federation, and the federation's record of it.

A token's secret is the secret half of a transport key, so a connection without a token fails at the handshake. The
folder `tokens` has a file for each issued token, named by the public half in hexadecimal: the line cannot be made from
it.
"""

import base64
import hashlib
import logging
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from fedmq.errors import BadConfiguration
from fedmq.names import Name
from fedmq.runtime.clock import time_text
from fedmq.runtime.malformed import MALFORMED
from fedmq.security.keyring import PUBLIC_SUFFIX, REFRESH_S, TOKENS, FederationInfo, read_file, write_file
from fedmq.security.keys import Key, PublicIdentity
from fedmq.security.watched_folder import WatchedFolder

PREFIX = "fedmq1-"
CHECKSUM_BYTES = 4
LINE_CHARACTERS_MAX = 1024
TOKENS_MAX = 100  # unused tokens at once; each allows one request

log = logging.getLogger(__name__)

UnixTime = Annotated[int, Meta(ge=0, le=2**40)]  # seconds since 1970


class Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The content of the line: the federation, the secret, and when it expires."""

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    broker: Annotated[str, Meta(max_length=300)]
    broker_key: Key
    aggregator: Name
    aggregator_transport: Key
    aggregator_signing: Key
    secret: Key
    expires: UnixTime
    name: Name | None  # the only name that may join with it

    def __repr__(self) -> str:
        return f"Token(until {format_time(self.expires)})"

    @property
    def federation(self) -> FederationInfo:
        """The federation, as the new machine stores it."""
        aggregator = PublicIdentity("aggregator", self.aggregator, self.aggregator_transport, self.aggregator_signing)
        return FederationInfo(self.id, self.broker, self.broker_key, aggregator)


class IssuedToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The federation's record of a token."""

    expires: UnixTime
    name: Name | None = None
    used_by: str | None = None  # the fingerprint of the key that used it; no other key may


def make_token(federation: FederationInfo, secret: bytes, expires: int, name: str | None) -> Token:
    """Return a token for a federation."""
    above = federation.aggregator
    public = (federation.id, federation.broker, federation.broker_key, above.name, above.transport, above.signing)
    return Token(*public, secret, expires, name)


def encode_token(token: Token) -> str:
    """Return the token as one line, with a checksum that detects an incomplete copy."""
    packed = msgspec.msgpack.encode(token)
    return PREFIX + base64.urlsafe_b64encode(packed + _checksum(packed)).decode().rstrip("=")


def decode_token(line: str) -> Token:
    """Return the token of a line."""
    line = line.strip()
    try:
        if len(line) > LINE_CHARACTERS_MAX or not line.startswith(PREFIX):
            raise ValueError
        coded = line.removeprefix(PREFIX)
        decoded = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        packed, checksum = decoded[:-CHECKSUM_BYTES], decoded[-CHECKSUM_BYTES:]
        if _checksum(packed) != checksum:
            raise ValueError
        token = msgspec.msgpack.decode(packed, type=Token)
        if encode_token(token) != line:  # the last character may have unused bits
            raise ValueError
    except (ValueError, *MALFORMED):
        raise BadConfiguration(
            f"expected a token, {PREFIX} and about 270 characters as printed by fedmq keys token, got {len(line)} "
            "characters that are not one: copy the whole line again"
        ) from None
    return token


def format_time(seconds: float) -> str:
    """Return a time in seconds since 1970 as text, in UTC."""
    return time_text(seconds)


def issued_token_path(folder: Path, key: bytes) -> Path:
    """Return the path of the record of the token with this public key."""
    return folder / TOKENS / f"{key.hex()}{PUBLIC_SUFFIX}"


def write_issued_token(folder: Path, key: bytes, issued: IssuedToken) -> None:
    """Write the record of the token with this public key."""
    write_file(issued_token_path(folder, key), issued)


def read_issued_tokens(folder: Path) -> dict[bytes, IssuedToken]:
    """Read all records by public key, sorted by expiry; damaged ones are skipped with a warning."""
    known = IssuedTokens(folder).by_key
    return dict(sorted(known.items(), key=lambda pair: pair[1].expires))


class IssuedTokens:
    """The records of issued tokens by public key, from the folder `tokens`, which is read again every REFRESH_S."""

    def __init__(self, folder: Path) -> None:
        self.by_key: dict[bytes, IssuedToken] = {}
        self._home = folder
        self._folder = WatchedFolder(folder / TOKENS, PUBLIC_SUFFIX, _read_issued_token, REFRESH_S)
        self.refresh(0.0)

    def refresh(self, now: float) -> set[bytes]:
        """Read the folder again if REFRESH_S have passed; return the keys of removed tokens."""
        if not self._folder.refresh(now):
            return set()
        before, self.by_key = (
            self.by_key,
            {bytes.fromhex(Path(name).stem): one for name, one in self._folder.files.items()},
        )
        return before.keys() - self.by_key.keys()

    def write(self, key: bytes, issued: IssuedToken) -> None:
        """Write the record of the token with this public key."""
        write_issued_token(self._home, key, issued)
        self.by_key = {**self.by_key, key: issued}
        self._folder.expire()


def _read_issued_token(path: Path) -> IssuedToken | None:
    """Read the record of a token; None, with a warning, if it is damaged.

    Raises:
        OSError: it cannot be read.
    """
    try:
        bytes.fromhex(path.stem)
        return read_file(path, IssuedToken)
    except ValueError:
        log.warning("%s: expected a file name in hexadecimal: ignored", path)
    except BadConfiguration as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        log.warning("%s", error)
    return None


def _checksum(packed: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + packed).digest()[:CHECKSUM_BYTES]
