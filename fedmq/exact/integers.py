"""Fixed point, and exact products: rows become integers, whose products float64 computes without rounding.

float64 holds every integer up to 2**53. A product of integer matrices is exact as long as rows x |a| x |b| stays at
most that: then no partial sum rounds, so the order, the kernel, the number of threads and fused multiply-add do not
matter. Factors of more bits are split into a high and a low part. After Ozaki, Ogita, Oishi and Rump (2012),
"Error-free transformations of matrix multiplication by using fast routines of matrix multiplication and its
applications", Numerical Algorithms 59.
"""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration

EXACT_BITS = 53  # integers of so many bits are exact in float64, their sums among them
BLOCK_ROWS = 2048  # of a product: the factors stay in a cache

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
BigIntegers = npt.NDArray[np.object_]  # Python integers


class Parts(NamedTuple):
    """Integers as high * 2**low_bits + low, all float64; |low| is at most 2**(low_bits - 1)."""

    high: Floats
    low: Floats
    low_bits: int


def to_fixed(values: Floats, fraction_bits: npt.ArrayLike, bits: int) -> Floats:
    """Return the integers nearest to values * 2**fraction_bits, half to even, within ±2**bits, as float64.

    `fraction_bits` may be an array that broadcasts. Scaling by a power of two is exact. A NaN stays one.
    """
    fixed = np.rint(values * np.ldexp(1.0, fraction_bits))
    limit = float(1 << bits)
    np.minimum(fixed, limit, out=fixed)
    np.maximum(fixed, -limit, out=fixed)
    return fixed


def split(fixed: Floats, low_bits: int) -> Parts:
    """Return integers of float64 as a high and a low part, without an error."""
    high = np.rint(fixed * 2.0**-low_bits)
    return Parts(high, fixed - high * 2.0**low_bits, low_bits)


def rows_of_a_product(left_bits: int, right_bits: int) -> int:
    """Return how many rows one product of such integers may sum.

    Raises:
        ValueError: not even one; split a factor.
    """
    if left_bits + right_bits > EXACT_BITS:
        raise ValueError(f"expected factors of at most {EXACT_BITS} bits together, got {left_bits} and {right_bits}")
    return 1 << (EXACT_BITS - left_bits - right_bits)


def product(left: Floats, left_bits: int, right: Floats, right_bits: int) -> Integers:
    """Return the sum over rows of left' right, (columns, columns) int64, exactly.

    `left` (rows, columns) and `right` (rows, columns) hold integers of at most so many bits in float64.
    The total must fit an int64, which the query checks: see `fedmq.algorithms.base.AdditiveQuery`.
    """
    check_products()
    rows = min(BLOCK_ROWS, rows_of_a_product(left_bits, right_bits))
    total = np.zeros((left.shape[1], right.shape[1]), np.int64)
    for start in range(0, len(left), rows):
        block = left[start : start + rows].T @ right[start : start + rows]
        total += block.astype(np.int64)
    return total


def gram_of_parts(parts: Parts, bits: int) -> Integers:
    """Return the sum over rows of q q', for q = high * 2**low_bits + low, as three sums of int64.

    `bits` bounds both parts. The answer is (3, columns * (columns + 1) / 2): the upper triangles, by rows, of
    high high', high low' + low high', low low'. `combine` puts them together.
    """
    columns = parts.high.shape[1]
    joined = np.concatenate([parts.high, parts.low], axis=1)
    full = product(joined, bits, joined, bits)
    upper = np.triu_indices(columns)
    cross = full[:columns, columns:]
    return np.stack([full[:columns, :columns][upper], (cross + cross.T)[upper], full[columns:, columns:][upper]])


def gram(fixed: Floats, bits: int) -> Integers:
    """Return the upper triangle, by rows, of the sum over rows of q q', (1, columns * (columns + 1) / 2) int64."""
    return product(fixed, bits, fixed, bits)[np.triu_indices(fixed.shape[1])][None]


def combine(sums: Integers, low_bits: int) -> BigIntegers:
    """Return the upper triangle of the sum of q q' as Python integers, from the sums of `gram_of_parts` or `gram`."""
    triangle: BigIntegers = sums[-1].astype(object)
    if len(sums) == 3:
        triangle += (sums[0].astype(object) << 2 * low_bits) + (sums[1].astype(object) << low_bits)
    return triangle


def symmetric(triangle: Floats) -> Floats:
    """Return the symmetric matrix with this upper triangle, by rows."""
    columns = columns_of(len(triangle))
    full = np.zeros((columns, columns))
    rows, places = np.triu_indices(columns)
    full[rows, places] = full[places, rows] = triangle
    return full


def triangle_of(columns: int) -> int:
    """Return how many elements the upper triangle of a matrix of so many columns has."""
    return columns * (columns + 1) // 2


def columns_of(triangle: int) -> int:
    """Return the columns of a matrix whose upper triangle has so many elements."""
    return int((np.sqrt(8.0 * triangle + 1.0) - 1.0) / 2.0 + 0.5)


def to_floats(numerators: npt.NDArray[Any], fraction_bits: npt.ArrayLike) -> Floats:
    """Return integers * 2**-fraction_bits as float64, each correctly rounded; `fraction_bits` broadcasts.

    Python rounds the quotient of two integers correctly, and numpy divides Python integers one by one.
    """
    denominators = np.left_shift(1, np.asarray(fraction_bits).astype(object))
    return np.asarray(numerators.astype(object) / denominators, np.float64)


@cache
def products_are_exact() -> bool:
    """Return whether the BLAS of this process multiplies integers below 2**53 exactly.

    A library that computes in TensorFloat-32, that emulates float64, or that uses Strassen's algorithm might not.
    """
    rows = np.arange(1, 65, dtype=np.int64)[:, None]
    left = (rows * np.arange(7919, 7919 + 48) % 8191 - 4095) << 9  # 22 bits each way, and 6 for the rows
    right = (rows * np.arange(104729, 104729 + 48) % 8191 - 4095) << 9
    exact = np.einsum("ri,rj->ij", left, right)  # integers, without BLAS
    return bool(((left.T.astype(np.float64) @ right.astype(np.float64)).astype(np.int64) == exact).all())


def check_products() -> None:
    """Check the BLAS of this process, once.

    Raises:
        BadConfiguration: its products of integers are not exact.
    """
    if not products_are_exact():
        raise BadConfiguration(
            "expected a BLAS that multiplies integers below 2**53 exactly, got one that rounds: install numpy with "
            "OpenBLAS, or turn the emulation of float64 off"
        )
