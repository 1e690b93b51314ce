"""Masks that cancel in a sum modulo 2**64, and the keys that they come from.

Bonawitz et al. (2017), section 4 and figure 4. For the dealers U2 with inputs x, int64 of one length,

    s_uv = HKDF(X25519(mask secret of u, mask key of v), sum id, both names)                 = s_vu
    y_u  = x_u + G(b_u) + sum over v < u of G(s_uv) - sum over v > u of G(s_uv)              mod 2**64

G is ChaCha20 as little-endian uint64, and b_u the self-mask, 32 random bytes. With the survivors U3,

    sum over U3 of x_u = sum over U3 of (y_u - G(b_u))
                         -+ sum over u in U3, v in U2 without U3 of G(s_uv)                  mod 2**64
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq.security import ciphers

Masked = npt.NDArray[np.uint64]


def digest(*parts: bytes) -> bytes:
    """Return the SHA-256 of the parts, each after its length: other parts have another digest."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts)).digest()


class SumName(NamedTuple):
    """The name of one sum; in a term of the aggregator each has a higher number."""

    federation: bytes
    run: str
    term: int
    number: int

    @property
    def id(self) -> bytes:
        """Its digest, 32 bytes: keys and signatures of the sum are valid for no other."""
        parts = (self.federation, self.run.encode(), b"%d" % self.term, b"%d" % self.number)
        return digest(b"fedmq secure sum, version 1", *parts)

    @property
    def order(self) -> tuple[int, int]:
        """All trainers have the same order of sums."""
        return self.term, self.number


def pair_seed(agreed: bytes, sum_id: bytes, one: int, other: int) -> bytes:
    """Return s_uv from the agreement of two members' mask keys; indexes in either order."""
    return ciphers.derive(agreed, digest(b"pair", sum_id, b"%d" % min(one, other), b"%d" % max(one, other)))


def share_key(agreed: bytes, sum_id: bytes, dealer: int, holder: int) -> bytes:
    """Return the key that encrypts the shares of `dealer` for `holder`, from the agreement of their share keys."""
    return ciphers.derive(agreed, digest(b"shares", sum_id, b"%d" % dealer, b"%d" % holder))


def mask(seed: bytes, length: int) -> Masked:
    """Return G(seed), uint64 of shape (length,)."""
    return np.frombuffer(ciphers.key_stream(seed, 8 * length), "<u8")


def add_pair(values: Masked, seed: bytes, member: int, other: int) -> None:
    """Add the pair's mask to the values of `member`, in place: what `other` subtracts."""
    (np.add if other < member else np.subtract)(values, mask(seed, len(values)), out=values)


def remove_pair(values: Masked, seed: bytes, member: int, other: int) -> None:
    """Undo `add_pair`, in place."""
    add_pair(values, seed, other, member)


def to_bitmap(indexes: Collection[int], members: int) -> bytes:
    """Return the set as bytes: index i is bit i % 8 of byte i // 8."""
    bits = np.zeros(members, np.uint8)
    bits[list(indexes)] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def from_bitmap(bitmap: bytes, members: int) -> tuple[int, ...] | None:
    """Return the indexes in order, or None for a bitmap of another size, or with a bit beyond the members."""
    if len(bitmap) != (members + 7) // 8:
        return None
    indexes = np.flatnonzero(np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")).tolist()
    return tuple(indexes) if not indexes or indexes[-1] < members else None
