"""Draws and hashes from integers: the same bits in every version of numpy and on every machine.

A counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): draw number i of a
stream is a hash of the stream's key and i. The hash is SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable
pseudorandom number generators"), the key SHA-256 of a seed and a path of names and numbers. Not for secrets.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from fedmq.exact.elementary import log
from fedmq.exact.fourier import TURN_BITS, cosines
from fedmq.exact.integers import Floats, Integers

Words = npt.NDArray[np.uint64]

_STEP = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_FACTOR_1, _FACTOR_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def words(count: int, seed: int, *path: str | int) -> Words:
    """Return `count` independent, uniform uint64 of a stream."""
    key = int.from_bytes(hashlib.sha256(repr((seed, *path)).encode()).digest()[:8], "little")
    counters = np.arange(1, count + 1, dtype=np.uint64)
    counters *= np.uint64(_STEP)  # modulo 2**64
    counters += np.uint64(key)
    return _mixed(counters)


def signs(count: int, seed: int, *path: str | int) -> Integers:
    """Return `count` independent values of -1 and 1."""
    return (words(count, seed, *path) >> np.uint64(63)).astype(np.int64) * 2 - 1


def normals(count: int, seed: int, *path: str | int) -> Floats:
    """Return `count` standard normal values, by Box and Muller (1958); angles have TURN_BITS bits."""
    drawn = words(count, seed, *path)
    radius = ((drawn >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    angle = (drawn & np.uint64((1 << TURN_BITS) - 1)).astype(np.int64)
    return np.sqrt(log(radius) * -2.0) * cosines(angle)


def permutation(count: int, seed: int, *path: str | int) -> Integers:
    """Return the numbers from 0 to count - 1 in random order."""
    return np.argsort(words(count, seed, *path), kind="stable")


def hash_rows(columns: Floats) -> Words:
    """Return a hash of each row, (rows,), from the bits of its numbers; `columns` is (columns, rows).

    Rows with equal numbers have equal hashes, whatever else is in the table; 0 and -0 are equal.
    """
    hashed = np.zeros(columns.shape[1], np.uint64)
    for column in columns:
        hashed ^= (column + 0.0).view(np.uint64)
        hashed += np.uint64(_STEP)
        hashed = _mixed(hashed)
    return hashed


def _mixed(state: Words) -> Words:
    """Return SplitMix64's output function of each state."""
    state = (state ^ (state >> _SHIFT_1)) * _FACTOR_1
    state = (state ^ (state >> _SHIFT_2)) * _FACTOR_2
    return state ^ (state >> _SHIFT_3)
