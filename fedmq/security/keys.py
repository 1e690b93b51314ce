"""Identities: the key pairs of one service.

An identity has a key pair for connections (X25519, for CURVE, https://rfc.zeromq.org/spec/26/) and one for signatures
(Ed25519, RFC 8032), because CURVE ends at the broker.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cached_property, lru_cache
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

from fedmq.names import Name

Role = Literal["broker", "aggregator", "trainer", "observer"]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
FINGERPRINT_PATTERN = r"[a-z2-7]{4}(?:-[a-z2-7]{4}){3}"
KEYS_CACHED = 4096  # fingerprints: one is looked up for each message
FINGERPRINT_CHARACTERS = 16  # 5 bits each: short enough to compare by eye, 2**80 attempts to forge one


class PublicIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The public part of an identity: role, name and public keys."""

    role: Role
    name: Name
    transport: Key
    signing: Key

    @property
    def fingerprint(self) -> str:
        """A digest of all fields, to be compared by eye, such as `k7fq-2mzt-x4wd-hb3p`."""
        prefix = b"".join(part + b"\0" for part in (b"fedmq identity", self.role.encode(), self.name.encode()))
        return fingerprint_of(prefix + self.transport + self.signing)

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        """Return whether `signature` is this identity's signature of exactly these bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.signing).verify(signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The secret keys of one service. They never leave the machine that made them, and are never printed."""

    role: Role
    name: Name
    transport_secret: Key
    signing_secret: Key

    def __repr__(self) -> str:
        return f"Identity({self.role} {self.name})"

    @classmethod
    def new(cls, role: Role, name: str) -> Identity:
        """Generate an identity from the kernel's random numbers."""
        transport = X25519PrivateKey.generate().private_bytes_raw()
        return cls(role, name, transport, Ed25519PrivateKey.generate().private_bytes_raw())

    @cached_property
    def _signing(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.signing_secret)

    @cached_property
    def public(self) -> PublicIdentity:
        """The public part."""
        signing = self._signing.public_key().public_bytes_raw()
        return PublicIdentity(self.role, self.name, transport_public(self.transport_secret), signing)

    def sign(self, signed: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._signing.sign(signed)


@lru_cache(maxsize=KEYS_CACHED)
def fingerprint_of(data: bytes) -> str:
    """Return a digest of these bytes to be compared by eye."""
    letters = base64.b32encode(hashlib.sha256(data).digest()).decode().lower()[:FINGERPRINT_CHARACTERS]
    return "-".join(letters[start : start + 4] for start in range(0, FINGERPRINT_CHARACTERS, 4))


def transport_pair() -> tuple[bytes, bytes]:
    """Generate a key pair for connections; return the public key and the secret key."""
    secret = X25519PrivateKey.generate().private_bytes_raw()
    return transport_public(secret), secret


def transport_public(secret: bytes) -> bytes:
    """Return the public key of a secret transport key."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
