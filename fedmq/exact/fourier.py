"""Cosines of integer angles: a turn has 2**TURN_BITS steps, and the cosine is an integer of COSINE_BITS bits.

No entry of the table is nearer to a tie of rounding than 2e-6 of a unit, and a float64 cosine errs by at most 1e-10
units, so every mathematical library gives the same table.
"""

from functools import cache

import numpy as np

from fedmq.exact.integers import Floats, Integers

TURN_BITS = 16
COSINE_BITS = 19


@cache
def _table() -> Floats:
    """Return rint(2**COSINE_BITS * cos(angle)) for every angle."""
    steps = 1 << TURN_BITS
    table: Floats = np.rint(np.cos(np.arange(steps) * (2.0 * np.pi / steps)) * 2.0**COSINE_BITS)
    return table


def integer_cosines(angles: Integers) -> Floats:
    """Return the cosines of angles in steps, modulo a turn, as integers in units of 2**-COSINE_BITS."""
    result: Floats = _table()[angles & ((1 << TURN_BITS) - 1)]
    return result


def cosines(angles: Integers) -> Floats:
    """Return the cosines of angles in steps."""
    result: Floats = integer_cosines(angles) * 2.0**-COSINE_BITS
    return result
