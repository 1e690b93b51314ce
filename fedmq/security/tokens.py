"""Tokens: the one line that is pasted on a new machine, and what the federation's folder keeps of it.

A token's secret is the secret half of a key of the transport, so that who has no token fails at the handshake. The
folder `tokens` holds a file for each one, named by the public half in hexadecimal: nobody can make the line of it.
Knows nothing of sockets, nor of who is let in for what.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from fedmq.errors import BadConfiguration
from fedmq.names import Name
from fedmq.runtime.atomic_files import write_whole, writing
from fedmq.security.keyring import (
    CHOOSE_ANOTHER,
    PUBLIC_SUFFIX,
    REFRESH_S,
    FederationInfo,
    names_in,
    read_file,
    text_of,
)
from fedmq.security.keys import Key, PublicIdentity, transport_public

PREFIX = "fedmq1-"
CHECKSUM_BYTES = 4
LINE_CHARACTERS_MAX = 1024
TOKENS = "tokens"
TOKENS_MAX = 100  # outstanding and not used at once; each brings one request at the most

log = logging.getLogger(__name__)

UnixTime = Annotated[int, Meta(ge=0, le=2**40)]  # seconds since 1970


class Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the line says: where the federation is and whom to believe there, the secret, and until when it is good."""

    id: Annotated[bytes, Meta(min_length=16, max_length=16)]
    broker: Annotated[str, Meta(max_length=300)]
    broker_key: Key
    aggregator: Name
    aggregator_transport: Key
    aggregator_signing: Key
    secret: Key
    expires: UnixTime
    name: Name | None  # the only name that may be taken with it

    def __repr__(self) -> str:
        return f"Token(until {format_time(self.expires)})"

    @property
    def federation(self) -> FederationInfo:
        """What is kept of it on the new machine."""
        aggregator = PublicIdentity("aggregator", self.aggregator, self.aggregator_transport, self.aggregator_signing)
        return FederationInfo(self.id, self.broker, self.broker_key, aggregator)


class IssuedToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the federation's folder keeps of a token."""

    expires: UnixTime
    name: Name | None = None
    used_by: str | None = None  # the fingerprint of who has asked with it: nobody else may any more


def make_token(federation: FederationInfo, secret: bytes, expires: int, name: str | None) -> Token:
    """A token for a federation."""
    above = federation.aggregator
    return Token(
        federation.id,
        federation.broker,
        federation.broker_key,
        above.name,
        above.transport,
        above.signing,
        secret,
        expires,
        name,
    )


def encode_token(token: Token) -> str:
    """The token as one word, with a checksum: a part of it that is lost while it is copied is noticed."""
    said = msgspec.msgpack.encode(token)
    return PREFIX + base64.urlsafe_b64encode(said + _checksum(said)).decode().rstrip("=")


def decode_token(line: str) -> Token:
    """The token that a line holds.

    Raises:
        BadConfiguration: it is not a whole token, just as it was printed.
    """
    line = line.strip()
    try:
        if len(line) > LINE_CHARACTERS_MAX or not line.startswith(PREFIX):
            raise ValueError
        coded = line.removeprefix(PREFIX)
        packed = base64.b64decode(coded + "=" * (-len(coded) % 4), altchars=b"-_", validate=True)
        said, checksum = packed[:-CHECKSUM_BYTES], packed[-CHECKSUM_BYTES:]
        if _checksum(said) != checksum:
            raise ValueError
        token = msgspec.msgpack.decode(said, type=Token)
        if encode_token(token) != line:  # the last character may hold bits that nothing says
            raise ValueError
    except (ValueError, msgspec.MsgspecError):
        raise BadConfiguration(
            f"expected a whole token, {PREFIX} and about 270 letters as fedmq keys token printed them, got "
            f"{len(line)} that are not; copy the line again"
        ) from None
    return token


def format_time(expires: float) -> str:
    """A point in time, for people."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(expires))


def issued_token_path(folder: Path, key: bytes) -> Path:
    """Where the issued of the token with this public key stands."""
    return folder / TOKENS / f"{key.hex()}{PUBLIC_SUFFIX}"


def write_issued_token(folder: Path, key: bytes, issued: IssuedToken) -> None:
    """Keep a issued.

    Raises:
        BadConfiguration: it cannot be written.
    """
    path = issued_token_path(folder, key)
    with writing(path, CHOOSE_ANOTHER):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_whole(path, text_of(issued))


def read_issued_token(folder: Path, key: bytes) -> IssuedToken | None:
    """The issued of the token with this public key; None, with a line, when it is not as it was written."""
    path = issued_token_path(folder, key)
    try:
        return read_file(path, IssuedToken) if path.is_file() else None
    except BadConfiguration as error:
        log.warning("%s", error)
        return None


def read_issued_tokens(folder: Path) -> dict[bytes, IssuedToken]:
    """All tokens by their public keys, the first to expire first."""
    found = ((key, read_issued_token(folder, key)) for key in _keys_in(folder))
    known = [(key, issued) for key, issued in found if issued is not None]
    return dict(sorted(known, key=lambda pair: pair[1].expires))


class IssuedTokens:
    """Which tokens are outstanding, as the folder `tokens` says; looked at again every REFRESH_S."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._expires: dict[bytes, int] = {}
        self._next = 0.0
        self.refresh(0.0)

    def expires(self, key: bytes) -> int | None:
        """Until when the token with this public key is good; None if there is none."""
        return self._expires.get(key)

    def refresh(self, now: float) -> set[bytes]:
        """Look again if it is time; the keys of the tokens that are gone."""
        if now < self._next:
            return set()
        self._next = now + REFRESH_S
        keys = _keys_in(self._folder)
        gone, new = self._expires.keys() - keys, keys - self._expires.keys()
        found = {key: issued.expires for key in new if (issued := read_issued_token(self._folder, key)) is not None}
        self._expires = {key: self._expires[key] for key in keys & self._expires.keys()} | found
        return gone


def _keys_in(folder: Path) -> set[bytes]:
    keys = set()
    for name in names_in(folder / TOKENS):
        try:
            keys.add(bytes.fromhex(name.removesuffix(PUBLIC_SUFFIX)))
        except ValueError:
            log.warning("%s: expected the name of a token, left out", folder / TOKENS / name)
    return keys


def public_half(token: Token) -> bytes:
    """The public half of the token's key."""
    return transport_public(token.secret)


def _checksum(said: bytes) -> bytes:
    return hashlib.sha256(PREFIX.encode() + said).digest()[:CHECKSUM_BYTES]
