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


def agree(secret: bytes, public: bytes) -> bytes:
    """Return what both sides compute from their own secret key and the other's public key, 32 bytes.

    Raises:
        ValueError: the public key is of low order, so that the result would be no secret.
    """
    return X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(public))


def is_sound(public: bytes) -> bool:
    """Return whether others can agree with this public key: with one of low order, no secret key can."""
    try:
        agree(bytes(KEY_BYTES), public)
    except ValueError:
        return False
    return True


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
