"""The trainer's half of `spread`, `moments` and `histograms`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.statistics.query import (
    EXPONENT_MAX,
    EXPONENT_MIN,
    LIMB_BITS,
    SPREAD_CELLS,
    VALUE_BITS,
    ZERO_CELL,
    Histograms,
    Moments,
    Spread,
    num_classes,
)
from fedmq.errors import WorkCancelled
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats, Integers

BLOCK_ROWS = 1 << 15  # numbers at once: the temporary arrays stay in a cache


def count_exponents(_query: Spread, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Count signs and exponents."""
    counts = []
    for column in _columns(work):
        exponents = np.clip(np.frexp(column)[1], EXPONENT_MIN, EXPONENT_MAX).astype(np.int64) - EXPONENT_MIN + 1
        cells = ZERO_CELL + np.sign(column).astype(np.int64) * exponents
        counts.append(np.bincount(cells, minlength=SPREAD_CELLS))
    return {"exponents": np.stack(counts).astype(np.int64)}


def sum_moments(_query: Moments, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum values and squares in parts."""
    limbs, counts, clipped = [], [], []
    for column, fraction_bits in zip(_columns(work), work.arrays["fraction_bits"], strict=True):
        blocks = np.split(column, range(BLOCK_ROWS, len(column), BLOCK_ROWS))
        limbs.append(sum(_limbs(to_fixed(block, fraction_bits, VALUE_BITS).astype(np.int64)) for block in blocks))
        limit = np.ldexp(1.0, VALUE_BITS - int(fraction_bits))
        counts.append(len(column))
        clipped.append(int(np.count_nonzero(np.abs(column) > limit)))
    classes = num_classes(work.task)
    targets = work.rows.targets.astype(np.int64) if classes else np.empty(0, np.int64)
    return {
        "limbs": np.stack(limbs).astype(np.int64),
        "counts": np.array(counts, np.int64),
        "clipped": np.array(clipped, np.int64),
        "classes": np.bincount(targets, minlength=classes).astype(np.int64),
    }


def count_buckets(_query: Histograms, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Count the values in each bucket."""
    counts = [
        np.bincount(np.searchsorted(edges, column, side="right"), minlength=len(edges) + 1)
        for column, edges in zip(_columns(work), work.arrays["edges"], strict=True)
    ]
    return {"histograms": np.stack(counts).astype(np.int64)}


def _columns(work: Assignment) -> Iterator[Floats]:
    """Yield the values of each column without the missing ones."""
    rows = work.rows
    columns: list[Floats] = [*rows.inputs.T]
    if rows.weights is not None:
        columns.append(rows.weights)
    if not num_classes(work.task):
        columns.append(rows.targets.astype(np.float64))
    for column in columns:
        if work.cancelled():
            raise WorkCancelled("the statistics were cancelled: a newer round makes them needless")
        yield np.ascontiguousarray(column[~np.isnan(column)])


def _limbs(fixed: Integers) -> Integers:
    high, low = fixed >> LIMB_BITS, fixed & ((1 << LIMB_BITS) - 1)
    sums = [high.sum(), low.sum()]
    for square in (high * high, high * low, low * low):
        sums += [(square >> LIMB_BITS).sum(), (square & ((1 << LIMB_BITS) - 1)).sum()]
    return np.array(sums)


SPREAD = Learner(Spread, count_exponents)
MOMENTS = Learner(Moments, sum_moments)
HISTOGRAMS = Learner(Histograms, count_buckets)
