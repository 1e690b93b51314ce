"""Fixed-point losses: integers in units of 2**-fraction_bits on the wire.

Integers add up without rounding, in any order and modulo any power of two, as masked or noisy sums need.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fedmq.errors import Rejected
from fedmq.models.arrays import Floats, Integers
from fedmq.protocol.codec import Array

FRACTION_BITS = 16  # default; runs are the same as with float64 losses
UNITS_MAX = 1 << 62  # larger losses saturate: they are clipped to it; fits int64 and is exact in float64
LOSSES = "losses"  # name of the array of summed losses in a result


def to_units(losses: Floats, fraction_bits: int) -> Integers:
    """Return losses as int64 in units of 2**-fraction_bits, rounded half to even.

    Values beyond ±UNITS_MAX are clipped to it; NaN becomes UNITS_MAX.
    """
    unit = 2.0**-fraction_bits
    bounded = np.fmax(np.fmin(losses, UNITS_MAX * unit), -UNITS_MAX * unit)  # fmin returns the bound for NaN
    units: Integers = np.rint(bounded / unit).astype(np.int64)
    return units


def from_units(units: Integers, fraction_bits: int) -> Floats:
    """Return the losses as float64; exact up to 2**53 units."""
    return units.astype(np.float64) * 2.0**-fraction_bits


def saturated(losses: Floats, fraction_bits: int) -> npt.NDArray[np.bool_]:
    """Return which losses are clipped in units of 2**-fraction_bits. They are at the bound, so they rank alike."""
    clipped: npt.NDArray[np.bool_] = to_units(losses, fraction_bits) >= UNITS_MAX
    return clipped


def count_saturated(arrays: Mapping[str, Array]) -> int:
    """Return how many losses of a received result were clipped by its trainer."""
    return int(np.count_nonzero(arrays[LOSSES] >= UNITS_MAX)) if LOSSES in arrays else 0


def fitting_bits(loss: float, fraction_bits: int) -> int | None:
    """Return the largest number of bits, at most `fraction_bits`, that leaves room for 4 times this loss, or None."""
    return next((bits for bits in range(fraction_bits, -1, -1) if 4.0 * loss < UNITS_MAX * 2.0**-bits), None)


def quantize(arrays: Mapping[str, Array], fraction_bits: int) -> dict[str, Array]:
    """Return a trainer's arrays as they are sent: losses, if any, in units."""
    if LOSSES not in arrays:
        return dict(arrays)
    return {**arrays, LOSSES: to_units(arrays[LOSSES], fraction_bits)}


def dequantize(arrays: Mapping[str, Array], fraction_bits: int) -> dict[str, Array]:
    """Return the arrays of a result as a strategy uses them: losses, if any, as float64.

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
