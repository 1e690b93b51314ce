"""Two rounds that other algorithms begin with: the spread of each column, then its exact mean and deviation."""

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
    Moments,
    Spread,
    num_columns,
)
from fedmq.models.arrays import Floats, Integers
from fedmq.tasks.task import Task


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
class ColumnSurvey:
    """What is known about the columns: first nothing, then their exponents, then their moments."""

    columns: int
    exponents: Integers | None = None  # (columns, SPREAD_CELLS)
    moments: ColumnMoments | None = None

    @classmethod
    def of(cls, task: Task) -> ColumnSurvey:
        return cls(num_columns(task))

    def plan(self) -> Plan:
        """Return what to ask next; the moments again if they are known."""
        if self.exponents is None:
            return Plan(Spread(columns=self.columns), {})
        return Plan(Moments(), {"fraction_bits": self._fraction_bits()})

    def with_total(self, total: Total) -> ColumnSurvey:
        """Return the survey with the answers to `plan`."""
        if self.exponents is None:
            return replace(self, exponents=total.arrays["exponents"])
        beyond = (total.arrays["clipped"] > 0) & (self._tops() < EXPONENT_MAX)
        if beyond.any():  # a trainer with larger values has joined since: ask for the spread again
            return ColumnSurvey(self.columns)
        return replace(self, moments=_moments(total, self._fraction_bits()))

    def largest(self) -> Floats:
        """Return a power of two that bounds |x| for each column, (columns,)."""
        return np.ldexp(1.0, self._tops())

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

    def _fraction_bits(self) -> Integers:
        return (VALUE_BITS - self._tops()).astype(np.int64)


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
