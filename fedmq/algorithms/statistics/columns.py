"""The spread of each column, and its exact mean and deviation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from fedmq.algorithms.base import Plan, Total
from fedmq.algorithms.statistics.query import (
    EXPONENT_MAX,
    EXPONENT_MIN,
    EXPONENTS,
    LIMB_BITS,
    VALUE_BITS,
    ZERO_CELL,
    Spread,
)
from fedmq.models.arrays import Floats, Integers


@dataclass(frozen=True, eq=False)
class ColumnMoments:
    """Counts, means and deviations of columns, each a correctly rounded quotient of integers.

    `deviations` are of the population (divided by the count); 1 for a column that is constant or empty, so that
    `(x - mean) / deviation` is defined.
    """

    num_examples: int
    coverage: float
    counts: Integers  # (columns,) of values that are present
    clipped: Integers  # (columns,) of values beyond ±2**EXPONENT_MAX
    classes: Integers  # (classes,), or empty
    means: Floats  # (columns,)
    variances: Floats  # (columns,)

    @property
    def deviations(self) -> Floats:
        return np.where(self.variances > 0.0, np.sqrt(self.variances), 1.0)


@dataclass(frozen=True, eq=False)
class ColumnSpread:
    """The signs and binary exponents of each column, None before they are known."""

    columns: int
    exponents: Integers | None = None  # (columns, SPREAD_CELLS)
    num_examples: int = 0

    def plan(self) -> Plan:
        """Return the question about them."""
        return Plan(Spread(columns=self.columns), {})

    def with_total(self, total: Total) -> ColumnSpread:
        """Return the spread with the answers to `plan`."""
        return replace(self, exponents=total.arrays["exponents"], num_examples=total.num_examples)

    def moments(self, total: Total) -> ColumnMoments | None:
        """Return the moments from answers with `fraction_bits`; None if the spread is that of other rows."""
        if total.coverage >= 1.0 and total.num_examples != self.num_examples:
            return None
        beyond = (total.arrays["clipped"] > 0) & (self._tops() < EXPONENT_MAX)
        return None if beyond.any() else _moments(total, self.fraction_bits())

    def moments_of(self, total: Total) -> ColumnMoments:
        """Return the moments of a part of the rows, from answers with `fraction_bits`."""
        return _moments(total, self.fraction_bits())

    def bounds(self) -> tuple[Floats, Floats]:
        """Return a lower and an upper bound of each column's values: powers of two, or zero."""
        assert self.exponents is not None
        found = self.exponents > 0
        first = found.argmax(axis=1)
        last = found.shape[1] - 1 - found[:, ::-1].argmax(axis=1)
        return _cell_bound(first, upper=False), _cell_bound(last, upper=True)

    def _tops(self) -> Integers:
        """Return the smallest exponent with |x| < 2**exponent for each column."""
        assert self.exponents is not None
        sizes = self.exponents[:, ZERO_CELL + 1 :] + self.exponents[:, ZERO_CELL - 1 :: -1]
        top = EXPONENTS - 1 - (sizes[:, ::-1] > 0).argmax(axis=1)
        return np.where(sizes.any(axis=1), top + EXPONENT_MIN, 0)

    def fraction_bits(self) -> Integers:
        """Return the fraction bits (columns,) that leave each value VALUE_BITS bits."""
        return (VALUE_BITS - self._tops()).astype(np.int64)

    def shares(self, column: int, bottom: float, top: float, edges: int) -> list[float]:
        """Return edges between `bottom` and `top` that divide cells with values in proportion to their counts."""
        assert self.exponents is not None
        cells = np.flatnonzero(self.exponents[column])
        counts = [int(one) for one in self.exponents[column, cells]]
        lows = np.clip(_cell_bound(cells, upper=False), bottom, top).tolist()
        highs = np.clip(_cell_bound(cells, upper=True), bottom, top).tolist()
        inside = [one for one in zip(counts, lows, highs, strict=True) if one[1] < one[2]]
        total, found, passed = sum(count for count, _, _ in inside), list[float](), 0
        for count, low, high in inside:
            before, passed = edges * passed // total, passed + count
            steps = edges * passed // total - before
            found += [low + (high - low) * (step / steps) for step in range(1, steps + 1)]
        return found


def _cell_bound(cells: Integers, *, upper: bool) -> Floats:
    """Return the bound of cells of the spread: |x| is from 2**(exponent - 1) to 2**exponent."""
    sizes = np.abs(cells - ZERO_CELL)
    exponents = sizes - 1 + EXPONENT_MIN
    outer = (cells > ZERO_CELL) == upper  # the bound that is farther from zero
    magnitudes = np.ldexp(1.0, np.where(outer, exponents, exponents - 1))
    return np.where(sizes == 0, 0.0, np.where(cells > ZERO_CELL, magnitudes, -magnitudes))


def _moments(total: Total, fraction_bits: Integers) -> ColumnMoments:
    """Divide exact totals: nothing cancels, whatever the scale of a column."""
    means, variances = [], []
    for limbs, bits, count in zip(total.arrays["limbs"], fraction_bits, total.arrays["counts"], strict=True):
        high, low, *squares = (int(one) for one in limbs)
        value_sum = (high << LIMB_BITS) + low
        high_high, high_low, low_low = ((a << LIMB_BITS) + b for a, b in zip(squares[::2], squares[1::2], strict=True))
        square_sum = (high_high << 2 * LIMB_BITS) + (high_low << LIMB_BITS + 1) + low_low
        rows, unit = max(1, int(count)), Fraction(2) ** -int(bits)
        means.append(float(Fraction(value_sum, rows) * unit))
        spread = max(0, rows * square_sum - value_sum**2)  # never negative, but for sums that no rows have
        variances.append(float(Fraction(spread, rows**2) * unit**2))
    return ColumnMoments(
        num_examples=total.num_examples,
        coverage=total.coverage,
        counts=total.arrays["counts"],
        clipped=total.arrays["clipped"],
        classes=total.arrays["classes"],
        means=np.array(means),
        variances=np.array(variances),
    )
