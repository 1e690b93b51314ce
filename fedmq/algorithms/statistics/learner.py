"""The trainer's half of `spread`, `moments`, `histograms` and `products`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.standardization import STANDARD
from fedmq.algorithms.statistics.components import REACH_BITS, UNIT_BITS, Products
from fedmq.algorithms.statistics.query import (
    EXPONENT_MAX,
    EXPONENT_MIN,
    LIMB_BITS,
    LIMBS,
    SPREAD_CELLS,
    VALUE_BITS,
    ZERO_CELL,
    Histograms,
    Moments,
    Spread,
    num_classes,
)
from fedmq.errors import WorkCancelled
from fedmq.exact.integers import gram, to_fixed, triangle_of
from fedmq.models.arrays import Floats, Integers
from fedmq.models.standardized import Standard

BLOCK_VALUES = 1 << 16  # at once: the temporary arrays stay in a cache
BLOCK_ROWS_MIN = SPREAD_CELLS  # of a wide table: a block has as many numbers as it has counts to add
PRODUCT_ROWS = 2048  # whose products are computed at once


def count_exponents(query: Spread, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Count signs and exponents."""
    counts = np.zeros((query.columns, SPREAD_CELLS), np.int64)
    firsts = SPREAD_CELLS * np.arange(query.columns)  # of each column's cells
    for values, present in _blocks(work):
        exponents = np.clip(np.frexp(values)[1], EXPONENT_MIN, EXPONENT_MAX).astype(np.int64) - EXPONENT_MIN + 1
        cells = firsts + ZERO_CELL + np.sign(values).astype(np.int64) * exponents
        found = cells.ravel() if present.all() else cells[present]
        counts += np.bincount(found, minlength=counts.size).reshape(counts.shape)
    return {"exponents": counts}


def sum_moments(_query: Moments, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum values and squares in parts."""
    fraction_bits = work.arrays["fraction_bits"]
    limits = np.ldexp(1.0, VALUE_BITS - fraction_bits)
    limbs = np.zeros((LIMBS, len(fraction_bits)), np.int64)
    counts, clipped = np.zeros((2, len(fraction_bits)), np.int64)
    for values, present in _blocks(work):  # a missing value is 0, which adds nothing
        limbs += _limbs(to_fixed(values, fraction_bits, VALUE_BITS).astype(np.int64))
        counts += present.sum(axis=0)
        clipped += (np.abs(values) > limits).sum(axis=0)
    classes = num_classes(work.task)
    targets = work.rows.targets.astype(np.int64) if classes else np.empty(0, np.int64)
    return {
        "limbs": np.ascontiguousarray(limbs.T),
        "counts": counts,
        "clipped": clipped,
        "classes": np.bincount(targets, minlength=classes).astype(np.int64),
    }


def count_buckets(_query: Histograms, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Count the values in each bucket."""
    counts = [
        np.bincount(np.searchsorted(edges, column, side="right"), minlength=len(edges) + 1)
        for column, edges in zip(_columns(work), work.arrays["edges"], strict=True)
    ]
    return {"histograms": np.stack(counts).astype(np.int64)}


def _tables(work: Assignment) -> list[Floats]:
    """Return the columns as tables (rows, columns) that lie side by side: inputs, weights, a target that is a value."""
    rows = work.rows
    found = [rows.inputs]
    if rows.weights is not None:
        found.append(rows.weights[:, None])
    if not num_classes(work.task):
        found.append(rows.targets.astype(np.float64)[:, None])
    return found


def _blocks(work: Assignment) -> Iterator[tuple[Floats, npt.NDArray[np.bool_]]]:
    """Yield the values of some rows (rows, columns), 0 for a missing one, and which of them are present."""
    tables = _tables(work)
    size = max(BLOCK_ROWS_MIN, BLOCK_VALUES // sum(one.shape[1] for one in tables))
    for start in range(0, len(tables[0]), size):
        _check_cancelled(work)
        parts = [one[start : start + size] for one in tables]
        block = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
        present = ~np.isnan(block)
        yield (block if present.all() else np.where(present, block, 0.0)), present


def sum_column_products(_query: Products, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum the products of columns, block after block."""
    standard, rows = Standard.of(work.arrays[STANDARD]), work.rows.inputs
    total = np.zeros(triangle_of(rows.shape[1]), np.int64)
    for start in range(0, len(rows), PRODUCT_ROWS):
        _check_cancelled(work)
        total += products_of(standard, rows[start : start + PRODUCT_ROWS])
    return {"products": total}


def products_of(standard: Standard, inputs: Floats) -> Integers:
    """Return the sum over rows of the products of standardized inputs, as an answer has it."""
    bits = UNIT_BITS + REACH_BITS
    found: Integers = gram(to_fixed(standard.inputs(inputs), UNIT_BITS, bits), bits)[0]
    return found


def _columns(work: Assignment) -> Iterator[Floats]:
    """Yield the values of each column without the missing ones."""
    for table in _tables(work):
        for column in table.T:
            _check_cancelled(work)
            yield np.ascontiguousarray(column[~np.isnan(column)])


def _check_cancelled(work: Assignment) -> None:
    if work.cancelled():
        raise WorkCancelled("the statistics were cancelled: a newer round makes them needless")


def _limbs(fixed: Integers) -> Integers:
    """Return the sums (LIMBS, columns) of the parts of numbers (rows, columns), and of their squares."""
    mask = (1 << LIMB_BITS) - 1
    high, low = fixed >> LIMB_BITS, fixed & mask
    sums = [high.sum(axis=0), low.sum(axis=0)]
    for square in (high * high, high * low, low * low):
        sums += [(square >> LIMB_BITS).sum(axis=0), (square & mask).sum(axis=0)]
    return np.stack(sums)


SPREAD = Learner(Spread, count_exponents)
MOMENTS = Learner(Moments, sum_moments)
HISTOGRAMS = Learner(Histograms, count_buckets)
PRODUCTS = Learner(Products, sum_column_products)
