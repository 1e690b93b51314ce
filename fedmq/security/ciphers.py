"""Primitives of secure sums: key agreement, key derivation, key stream, and authenticated encryption.

X25519 (RFC 7748), HKDF-SHA256 (RFC 5869), ChaCha20 and ChaCha20-Poly1305 (RFC 8439). Keys are 32 bytes.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
TAG_BYTES = 16  # that encryption adds
_BLOCK = bytes(16)  # counter and nonce: each key has one use
_NONCE = bytes(12)
_P = 2**255 - 19
_COORDINATE = 2**255 - 1  # X25519 ignores the highest bit
_EIGHTH = 325606250916557431795983626356110631294008115727848805560023387167927233504
_LOW_ORDER = frozenset(  # https://cr.yp.to/ecdh.html: of order 1, 2, 4, 8 and 8, on the curve or its twist
    (0, 1, _P - 1, _EIGHTH, 39382357235489614581723060781553021112529911719440698176882885853963445705823)
)

SecretKey = X25519PrivateKey


def secret_key(secret: bytes) -> SecretKey:
    """Return the secret key for any number of agreements: to make it costs as much as one of them."""
    return X25519PrivateKey.from_private_bytes(secret)


def agree(secret: SecretKey, public: bytes) -> bytes:
    """Return what both sides compute from their own secret key and the other's public key, 32 bytes.

    Raises:
        ValueError: the public key is of low order, so that the result would be no secret.
    """
    return secret.exchange(X25519PublicKey.from_public_bytes(public))


def is_sound(public: bytes) -> bool:
    """Return whether others can agree with this public key: with one of low order, no secret key can."""
    return (int.from_bytes(public, "little") & _COORDINATE) % _P not in _LOW_ORDER


def derive(agreed: bytes, purpose: bytes) -> bytes:
    """Return a key for exactly one purpose, 32 bytes."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=purpose).derive(agreed)


def key_stream(key: bytes, size: int) -> bytes:
    """Return `size` bytes of the key's stream."""
    return Cipher(algorithms.ChaCha20(key, _BLOCK), mode=None).encryptor().update(bytes(size))


def encrypt(key: bytes, plain: bytes, bound: bytes) -> bytes:
    """Encrypt one message, which decrypts only with the same `bound`. A key encrypts one message in its life."""
    return ChaCha20Poly1305(key).encrypt(_NONCE, plain, bound)


def decrypt(key: bytes, encrypted: bytes, bound: bytes) -> bytes | None:
    """Return the message, or None if another key made it, or if it or `bound` has been changed."""
    try:
        return ChaCha20Poly1305(key).decrypt(_NONCE, encrypted, bound)
    except InvalidTag:
        return None
