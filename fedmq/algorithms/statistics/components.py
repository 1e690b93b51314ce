"""Principal components by sums: the query `products`, and the axes from its total.

The first axes of the correlations keep most of what distinguishes rows (Pearson 1901; Hotelling 1933), so a network on
them needs fewer weights. The products of columns add up over rows, so they are those of all rows, however these are
split. A value counts at most two deviations in them: neither an outlier nor a column that is nearly constant has an
axis of its own (after the winsorized correlations of Wilcox 1993). Values that are turned along the axes are not
clipped.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import AdditiveQuery, ArrayBounds, Demand, Plan, Shapes, Total
from fedmq.algorithms.standardization import STANDARD, TURNED_INPUTS_MAX, standard_bounds
from fedmq.errors import Rejected
from fedmq.exact.eigen import leading_eigenvectors
from fedmq.exact.integers import combine, symmetric, to_fixed, to_floats, triangle_of
from fedmq.models.arrays import Integers
from fedmq.models.standardized import AXIS_BITS, AXIS_MAX, Standard
from fedmq.tasks.task import Task

UNIT_BITS, REACH_BITS = 10, 1  # fraction bits of a standardized value; it counts at most ±2
BLOCK_ROWS = 2048
SPREAD_LEAST = 0.5  # that axes are divided by: no element counts more than 2


class Products(AdditiveQuery, frozen=True, tag="products"):
    """Sum the products of each pair of standardized inputs, at most ±2.

    Down: `standard` as in the query `slopes`. Up: `products` (inputs * (inputs + 1) / 2,) int64, the upper triangle by
    rows, in units of 2**(-2 * UNIT_BITS).
    """

    sends: ClassVar[str] = "sums of products of each pair of columns, for the principal axes"

    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << 39

    @property
    def row_bits(self) -> int:
        return 2 * (UNIT_BITS + REACH_BITS)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return standard_bounds(task.model, 0)

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        most = num_examples << self.row_bits
        return {"products": ArrayBounds((triangle_of(task.model.inputs),), np.int64, -most, most)}

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each pair of columns counts."""
        return triangle_of(max(1, shapes.get(STANDARD, (0, 0))[-1] - 1))

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        inputs = task.model.inputs
        block = 4 * min(BLOCK_ROWS, num_examples) * inputs
        return Demand(8 * (4 * inputs**2 + block), num_examples * inputs**2)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        if (inputs := task.model.inputs) > TURNED_INPUTS_MAX:
            raise Rejected("values", f"expected a model of at most {TURNED_INPUTS_MAX} inputs, got {inputs}")


def products_plan(standard: Standard) -> Plan:
    """Return the question about the products of rows that are standardized like this."""
    return Plan(Products(), {STANDARD: standard.array})


def principal_axes(total: Total, components: int) -> Integers:
    """Return the axes (inputs, components) int64, in units of 2**-AXIS_BITS; 0 beyond the rank of the columns.

    They are divided by one number, so that values along them have the mean square 1. Their own scales stay: a network
    learns more from the first ones.
    """
    matrix = symmetric(to_floats(combine(total.arrays["products"][None], 0), 2 * UNIT_BITS)) / total.num_examples
    variances, axes = leading_eigenvectors(matrix, components)
    kept = variances[variances > 0.0]
    mean = 1.0
    if len(kept):
        mean = float(np.cumsum(kept)[-1]) / len(kept)
    return to_fixed(axes / max(np.sqrt(mean), SPREAD_LEAST), AXIS_BITS, AXIS_MAX.bit_length() - 1).astype(np.int64)
