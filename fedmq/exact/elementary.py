"""exp, log, sigmoid, softplus and softmax of elementwise IEEE 754 operations: the same bits everywhere.

`numpy.exp` has two or three results over CPUs and versions. Here each step is one ufunc, so no compiler can fuse a
multiplication with an addition. Tables and short polynomials, after Tang (1989), "Table-driven implementation of the
exponential function in IEEE floating-point arithmetic", and Tang (1990) for the logarithm. Errors
are below 2.3e-16 relative (exp) and 5e-16 times the larger of 1 and the result (the others). The tables are made of
Python integers.
"""

from collections.abc import Callable, Sequence
from functools import cache, wraps
from math import factorial, isqrt
from typing import NamedTuple

import numpy as np

from fedmq.exact.integers import Floats

CELLS_BITS = 11
CELLS = 1 << CELLS_BITS  # of each table
PRECISION = 160  # bits of the integers that the tables are made of
FACTORIALS = 32  # entries of the table of log(n!)
HALF_LOG_2_PI = 0.9189385332046727
LARGEST = 700.0  # exp is bounded at exp(±LARGEST)
BLOCK = 8192  # numbers at once: the temporary arrays stay in a cache


class _Tables(NamedTuple):
    powers: Floats  # 2**(j / CELLS)
    logs: Floats  # log(1 + (j + 0.5) / CELLS)
    reciprocals: Floats  # 1 / (1 + (j + 0.5) / CELLS)
    cell_high: float  # log(2) / CELLS in two parts, the first of 31 bits: a multiple of it is exact
    cell_low: float
    cells_per_unit: float
    log2_high: float  # log(2) in two parts, the first of 40 bits
    log2_low: float


@cache
def _tables() -> _Tables:
    """Return the tables, each entry correctly rounded from fixed point with PRECISION bits."""
    one = 1 << PRECISION
    root = 2 * one
    for _ in range(CELLS_BITS):  # the square root of 2, CELLS_BITS times
        root = isqrt(root << PRECISION)
    powers, power = [], one
    for _ in range(CELLS):
        powers.append(power / one)
        power = power * root >> PRECISION
    log = 2 * _inverse_atanh(4 * CELLS + 1)
    logs = []
    for cell in range(CELLS):  # (m + 1) / (m - 1), with m = 2 (CELLS + cell + 1), is the ratio of two neighbors
        logs.append(log / one)
        log += 2 * _inverse_atanh(2 * (CELLS + cell + 1))
    log2 = 18 * _inverse_atanh(26) - 2 * _inverse_atanh(4801) + 8 * _inverse_atanh(8749)
    cell_high, log2_high = (log2 // CELLS >> PRECISION - 42) / 2**42, (log2 >> PRECISION - 40) / 2**40
    return _Tables(
        powers=np.array(powers),
        logs=np.array(logs),
        reciprocals=np.array([2 * CELLS / (2 * CELLS + 2 * cell + 1) for cell in range(CELLS)]),
        cell_high=cell_high,
        cell_low=(log2 // CELLS - int(cell_high * 2**42) * (one >> 42)) / one,
        cells_per_unit=(CELLS * one) / log2,
        log2_high=log2_high,
        log2_low=(log2 - int(log2_high * 2**40) * (one >> 40)) / one,
    )


def _inverse_atanh(number: int) -> int:
    """Return atanh(1 / number) * 2**PRECISION, rounded down by a few units: 1/m + 1/(3 m**3) + 1/(5 m**5) + ..."""
    total, power, odd = 0, (1 << PRECISION) // number, 1
    while power:
        total += power // odd
        power //= number * number
        odd += 2
    return total


def _in_blocks(function: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """Call a function of one array on blocks that fit a cache: a third of the time of whole arrays."""

    @wraps(function)
    def blockwise(values: Floats) -> Floats:
        flat = np.ascontiguousarray(values, np.float64).ravel()
        result = np.empty_like(flat)
        for start in range(0, len(flat), BLOCK):
            result[start : start + BLOCK] = function(flat[start : start + BLOCK])
        return result.reshape(np.shape(values))

    return blockwise


@_in_blocks
def exp(values: Floats) -> Floats:
    """Return exp(x), for x beyond ±LARGEST that of the bound: 2**(k / CELLS) * (1 + r + r**2/2 + r**3/6)."""
    tables = _tables()
    bounded = np.minimum(np.maximum(values, -LARGEST), LARGEST)
    cells = np.rint(bounded * tables.cells_per_unit)
    rest = (bounded - cells * tables.cell_high) - cells * tables.cell_low
    cell = cells.astype(np.int64)
    series = rest * (1.0 / 6.0)
    series += 0.5
    series *= rest
    series += 1.0
    series *= rest
    power = tables.powers[cell & (CELLS - 1)]
    series *= power
    series += power
    return np.ldexp(series, (cell >> CELLS_BITS).astype(np.int32))


@_in_blocks
def log(values: Floats) -> Floats:
    """Return log(x) for positive x: e log(2) + log(c) + log(m / c), with m 2**e = x and c the middle of m's cell."""
    tables = _tables()
    mantissa, exponent = np.frexp(values)
    mantissa *= 2.0
    # NaN and infinity have no cell, and other machines cast them to other integers; their result is not finite.
    cell = np.fmax(np.fmin((mantissa - 1.0) * CELLS, CELLS - 1.0), 0.0).astype(np.int64)
    rest = mantissa * tables.reciprocals[cell]
    rest -= 1.0
    series = rest * -0.25
    series += 1.0 / 3.0
    series *= rest
    series -= 0.5
    series *= rest
    series += 1.0
    series *= rest
    exponents = (exponent - 1).astype(np.float64)
    series += exponents * tables.log2_low
    series += tables.logs[cell]
    series += exponents * tables.log2_high
    return series


def log_factorial(counts: Floats) -> Floats:
    """Return log(n!) of whole numbers that are not negative: a table, and from FACTORIALS on Stirling's series."""
    small = np.minimum(counts, FACTORIALS - 1.0).astype(np.int64)
    large = np.maximum(counts, float(FACTORIALS))
    inverse = 1.0 / large
    square = inverse * inverse
    series = (large + 0.5) * log(large) - large + HALF_LOG_2_PI
    series += inverse * (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0)))
    return np.where(counts < FACTORIALS, _log_factorials()[small], series)


@cache
def _log_factorials() -> Floats:
    """Return log(n!) for n below FACTORIALS: n! is exact in float64 up to 22!, and correctly rounded beyond."""
    return log(np.array([float(factorial(count)) for count in range(FACTORIALS)]))


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-x)), without cancellation for either sign."""
    small = exp(-np.abs(values))
    larger = 1.0 / (small + 1.0)
    return np.where(values >= 0.0, larger, small * larger)


def softplus(values: Floats) -> Floats:
    """Return log(1 + exp(x))."""
    return log(exp(-np.abs(values)) + 1.0) + np.maximum(values, 0.0)


def softmax(logits: Floats) -> tuple[Floats, Floats]:
    """Return the probabilities (classes, rows) and the log-sum-exp (rows,) of logits (classes, rows).

    Classes are added one after the other, so a row's sum does not depend on the machine.
    """
    largest = logits.max(axis=0)
    shares = exp(logits - largest)
    total = shares[0].copy()
    for share in shares[1:]:
        total += share
    return shares / total, log(total) + largest


def layer_outputs(columns: Floats, weights: Floats) -> Floats:
    """Return the outputs (outputs, rows) of a layer of weights (inputs, outputs) for columns (inputs, rows).

    Each has the bits of `linear_outputs`; all at once take a fraction of the time when rows are few.
    """
    result = np.empty((weights.shape[1], columns.shape[1]))
    at_once = max(1, BLOCK // weights.shape[1])
    for start in range(0, columns.shape[1], at_once):
        block = columns[:, start : start + at_once]
        outputs = weights[0][:, None] * block[0]
        for column, weight in zip(block[1:], weights[1:], strict=True):
            outputs += weight[:, None] * column
        result[:, start : start + at_once] = outputs
    return result


def linear_outputs(columns: Floats, weights: Sequence[float] | Floats) -> Floats:
    """Return the sum over columns of column * weight, (rows,), added column after column: no BLAS.

    `columns` is (columns, rows), so that each column is contiguous.
    """
    result = np.empty(columns.shape[1])
    for start in range(0, len(result), BLOCK):
        block = columns[:, start : start + BLOCK]
        outputs = block[0] * weights[0]
        for column, weight in zip(block[1:], weights[1:], strict=True):
            outputs += column * weight
        result[start : start + BLOCK] = outputs
    return result
