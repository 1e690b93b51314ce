"""Keys: who somebody is, and what only they can do. The only module that imports cryptography.

An identity has two key pairs: one for the transport (X25519, as CURVE wants it, https://rfc.zeromq.org/spec/26/) and
one for signatures (Ed25519, RFC 8032), because CURVE ends at the broker. Knows nothing of files or sockets.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Meta

from fedmq.names import Name

Role = Literal["broker", "aggregator", "trainer", "observer"]
Key = Annotated[bytes, Meta(min_length=32, max_length=32)]
FINGERPRINT_CHARACTERS = 16  # of five bits: as many as a person compares, and 2**80 tries to forge one


class PublicIdentity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What everybody may know of an identity: its role, its name and the public halves of its keys."""

    role: Role
    name: Name
    transport: Key
    signing: Key

    @property
    def fingerprint(self) -> str:
        """A short digest of all of it, to be compared by eye, like `k7fq-2mzt-x4wd-hb3p`."""
        said = b"".join(part + b"\0" for part in (b"fedmq identity", self.role.encode(), self.name.encode()))
        digest = hashlib.sha256(said + self.transport + self.signing).digest()
        letters = base64.b32encode(digest).decode().lower()[:FINGERPRINT_CHARACTERS]
        return "-".join(letters[start : start + 4] for start in range(0, FINGERPRINT_CHARACTERS, 4))

    def verifies(self, signature: bytes, signed: bytes) -> bool:
        """Whether the holder of the signing key has signed just these bytes."""
        try:
            Ed25519PublicKey.from_public_bytes(self.signing).verify(signature, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Somebody's secret keys. They are made where they are used, and never leave; nothing of them is ever printed."""

    role: Role
    name: Name
    transport_secret: Key
    signing_secret: Key

    def __repr__(self) -> str:
        return f"Identity({self.role} {self.name})"

    @classmethod
    def new(cls, role: Role, name: str) -> Identity:
        """A new identity, from the kernel's random numbers."""
        transport = X25519PrivateKey.generate().private_bytes_raw()
        return cls(role, name, transport, Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def public(self) -> PublicIdentity:
        """The public half."""
        transport = X25519PrivateKey.from_private_bytes(self.transport_secret).public_key().public_bytes_raw()
        signing = Ed25519PrivateKey.from_private_bytes(self.signing_secret).public_key().public_bytes_raw()
        return PublicIdentity(self.role, self.name, transport, signing)

    def sign(self, signed: bytes) -> bytes:
        """The signature, 64 bytes."""
        return Ed25519PrivateKey.from_private_bytes(self.signing_secret).sign(signed)


def transport_pair() -> tuple[bytes, bytes]:
    """A new key pair for one use of the transport: the public and the secret half."""
    secret = X25519PrivateKey.generate()
    return secret.public_key().public_bytes_raw(), secret.private_bytes_raw()


def transport_public(secret: bytes) -> bytes:
    """The public half of a transport key."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
