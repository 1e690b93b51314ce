"""Secret sharing: any t of n shares give a secret of 32 bytes, fewer give no information about it.

Shamir (1979), "How to share a secret", CACM 22. Over the integers modulo P, for a polynomial of degree t - 1

    f(x) = secret + a_1 x + ... + a_(t-1) x^(t-1)        a_k uniform

member i (from 0) has the share f(i + 1). With the holders H, |H| = t (Lagrange),

    f(0) = sum over h in H of f(x_h) prod over k in H, k != h of x_k / (x_k - x_h)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

P = 2**256 + 297  # the smallest prime above 2**256, so that every secret of 32 bytes is below it
SHARE_BYTES = 33
_DRAW_BYTES = 48  # of a coefficient: its distance from uniform is below 2**-127

Draw = Callable[[int], bytes]  # so many random bytes, as `os.urandom`


def deal(secret: bytes, threshold: int, members: int, draw: Draw) -> list[bytes]:
    """Return the share of each member, 33 bytes each, of a secret of 32 bytes."""
    coefficients = [int.from_bytes(draw(_DRAW_BYTES), "little") % P for _ in range(threshold - 1)]
    coefficients.insert(0, int.from_bytes(secret, "little"))
    return [_value(coefficients, x).to_bytes(SHARE_BYTES, "little") for x in range(1, members + 1)]


def open_secret(shares: Mapping[int, bytes], threshold: int) -> bytes | None:
    """Return the secret from the shares of at least `threshold` members, by index.

    Returns None if they are not the shares of one secret of 32 bytes. With exactly `threshold` shares, nearly every
    wrong share still gives some secret.
    """
    holders = tuple(sorted(shares))
    values = [int.from_bytes(shares[holder], "little") for holder in holders]
    first = tuple(holder + 1 for holder in holders[:threshold])
    for holder, value in zip(holders[threshold:], values[threshold:], strict=True):
        if _interpolate(first, values, holder + 1) != value:
            return None
    secret = _interpolate(first, values, 0)
    return secret.to_bytes(SHARE_BYTES, "little")[:-1] if secret < 2**256 else None


def _value(coefficients: Sequence[int], x: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * x + coefficient) % P
    return value


def _interpolate(points: tuple[int, ...], values: Sequence[int], x: int) -> int:
    """Return f(x) for the polynomial through the points; values beyond them are ignored."""
    return sum(weight * value for weight, value in zip(_weights(points, x), values, strict=False)) % P


@lru_cache(maxsize=4096)  # the same holders have shares of every dealer
def _weights(points: tuple[int, ...], x: int) -> tuple[int, ...]:
    """Return the Lagrange weights of f(x) = sum of weight * f(point)."""
    weights = []
    for one in points:
        above = below = 1
        for other in points:
            if other != one:
                above = above * (other - x) % P
                below = below * (other - one) % P
        weights.append(above * pow(below, -1, P) % P)
    return tuple(weights)
