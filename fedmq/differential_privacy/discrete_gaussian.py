"""The discrete Gaussian distribution, exactly, over vectors.

Canonne, Kamath and Steinke (2020), "The discrete Gaussian for differential privacy", algorithms 1 to 3, vectorized.
Each coin with probability exp(-g), g rational, is a uniform number of 53 bits against exp(-g) in float64. Where the two
are nearer than 2**-40, which happens once in 10**12 coins, exact fractions and further bits decide. So samples have the
exact distribution, at the speed of numpy.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Words = Callable[[int], npt.NDArray[np.uint64]]  # count -> so many uniform words of 64 bits
SCALE_BITS_MAX = 40  # a standard deviation is below 2**40
_COIN_BITS = 53
_NEAR = 2.0**13  # of 2**53: what float64 may be wrong by, with room


def system_words(count: int) -> npt.NDArray[np.uint64]:
    """Return random words of the operating system, (count,)."""
    return np.frombuffer(os.urandom(8 * count), "<u8").astype(np.uint64)


def words_of(generator: np.random.Generator) -> Words:
    """Return words of a seeded generator: for simulations, which hide nothing."""
    return lambda count: generator.integers(0, 1 << 64, count, np.uint64, endpoint=False)


def discrete_gaussian(variance: Fraction, count: int, words: Words = system_words) -> Integers:
    """Return samples (count,) int64 with probability proportional to exp(-x**2 / (2 variance)).

    Raises:
        ValueError: the variance is not positive, or its root is 2**SCALE_BITS_MAX or more.
    """
    if not 0 < variance < 1 << 2 * SCALE_BITS_MAX:
        raise ValueError(f"expected a variance above 0 and below 2**{2 * SCALE_BITS_MAX}, got {float(variance):g}")
    scale = math.isqrt(math.floor(variance)) + 1  # t of algorithm 3
    center, twice = variance / scale, 2 * variance
    found = np.empty(0, np.int64)
    while len(found) < count:
        tried = _laplace(scale, int((count - len(found)) * 1.45) + 16, words)
        away = np.abs(tried) - float(center)
        kept = _coins(
            away * away / float(twice), lambda place, tried=tried: (abs(int(tried[place])) - center) ** 2 / twice, words
        )
        found = np.concatenate([found, tried[kept]])
    return found[:count]


def _laplace(scale: int, count: int, words: Words) -> Integers:
    """Return samples with probability proportional to exp(-|x| / scale): algorithm 2."""
    found = np.empty(0, np.int64)
    while len(found) < count:
        low = _below(scale, int((count - len(found)) * 2.8) + 16, words)
        low = low[_coins(low / scale, lambda place, low=low: Fraction(int(low[place]), scale), words)]
        high = np.zeros(len(low), np.int64)
        alive = np.arange(len(low))
        while len(alive):
            alive = alive[_coins(np.ones(len(alive)), lambda _place: Fraction(1), words)]
            high[alive] += 1
        sizes = low + scale * high
        negative = (words(len(sizes)) & np.uint64(1)).astype(bool)
        found = np.concatenate([found, np.where(negative, -sizes, sizes)[~(negative & (sizes == 0))]])
    return found[:count]


def _below(limit: int, count: int, words: Words) -> Integers:
    """Return uniform integers from 0 to limit - 1, (count,), by rejection."""
    whole = (1 << 64) // limit * limit
    found = words(count).copy()
    while (bad := np.flatnonzero(found > np.uint64(whole - 1))).size:
        found[bad] = words(len(bad))
    return (found % np.uint64(limit)).astype(np.int64)


def _coins(exponents: Floats, exact: Callable[..., Fraction], words: Words) -> npt.NDArray[np.bool_]:
    """Return coins that are true with probability exp(-exponent); `exact(place)` is the exponent as a fraction."""
    drawn = (words(len(exponents)) >> np.uint64(64 - _COIN_BITS)).astype(np.float64)
    limits = np.exp(-exponents) * 2.0**_COIN_BITS
    found: npt.NDArray[np.bool_] = drawn < limits
    for place in np.flatnonzero(np.abs(drawn - limits) <= _NEAR):
        found[place] = _exact_coin(int(drawn[place]), exact(int(place)), words)
    return found


def _exact_coin(drawn: int, exponent: Fraction, words: Words) -> bool:
    """Decide a coin whose first bits are drawn, with as many further bits as it takes."""
    bits = _COIN_BITS
    while True:
        drawn, bits = drawn << 64 | int(words(1)[0]), bits + 64
        low, high = _exp_bounds(exponent, bits)
        if drawn + 1 <= low:
            return True
        if drawn >= high:
            return False


def _exp_bounds(exponent: Fraction, bits: int) -> tuple[int, int]:
    """Return integers around 2**bits exp(-exponent): partial sums of the alternating series, raised to a power."""
    power = int(exponent) + 1
    part = exponent / power
    total, term, place = Fraction(0), Fraction(1), 0
    while term > Fraction(1, 1 << bits + 8):
        total += term if place % 2 == 0 else -term
        place += 1
        term = term * part / place
    low, high = max(total - term, Fraction(0)) ** power, (total + term) ** power
    return math.floor(low * (1 << bits)), math.floor(high * (1 << bits)) + 1
