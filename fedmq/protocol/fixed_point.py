"""Scores on the wire: summed losses as integers in units of 2**-fraction_bits, and back.

Integers add up without rounding, in any order, modulo any power of two: what sums behind masks or with noise will need.
Knows nothing of messages, rounds or how a loss is computed.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedmq.errors import Rejected
from fedmq.models.arrays import Floats, Integers
from fedmq.protocol.codec import Array

FRACTION_BITS = 16  # bits behind the point unless a trainer chooses; the same runs as with float64 losses
UNITS_MAX = 1 << 62  # a loss beyond it counts as just that; within an int64, and a float64 holds it exactly
LOSSES = "losses"  # the array of a result that holds summed losses


def to_units(losses: Floats, fraction_bits: int) -> Integers:
    """The losses in units of 2**-fraction_bits: the nearest integer, of two the even one; int64.

    One beyond UNITS_MAX, or that is no number, becomes UNITS_MAX, of its sign if it has one.
    """
    unit = 2.0**-fraction_bits
    bounded = np.fmax(np.fmin(losses, UNITS_MAX * unit), -UNITS_MAX * unit)  # fmin prefers the bound to a NaN
    units: Integers = np.rint(bounded / unit).astype(np.int64)
    return units


def from_units(units: Integers, fraction_bits: int) -> Floats:
    """The losses, float64: exact up to 2**53 units."""
    return units.astype(np.float64) * 2.0**-fraction_bits


def quantize(arrays: Mapping[str, Array], fraction_bits: int) -> dict[str, Array]:
    """What a trainer computed, as it is sent: its losses, if there are any, in units."""
    if LOSSES not in arrays:
        return dict(arrays)
    return {**arrays, LOSSES: to_units(arrays[LOSSES], fraction_bits)}


def dequantize(arrays: Mapping[str, Array], fraction_bits: int) -> dict[str, Array]:
    """What came in a result, as a strategy takes it: its losses, if there are any, as float64.

    Raises:
        Rejected: the losses are no integers.
    """
    if LOSSES not in arrays:
        return dict(arrays)
    if arrays[LOSSES].dtype != np.int64:
        raise Rejected(
            "dtype", f"expected losses of int64, in units of 2**-{fraction_bits}, got {arrays[LOSSES].dtype}"
        )
    return {**arrays, LOSSES: from_units(arrays[LOSSES], fraction_bits)}
