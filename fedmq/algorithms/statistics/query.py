"""The queries `spread`, `moments` and `histograms`: sums over rows about each column.

The columns are the inputs, and after them the target if it is a value. A class target has counts instead. A missing
value (NaN) is in no sum.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import AdditiveQuery, ArrayBounds, Arrays, Demand, Shapes
from fedmq.errors import Rejected
from fedmq.models.networks import LAYER_UNITS_MAX, Code
from fedmq.tasks.row_views import View
from fedmq.tasks.task import Task

EXPONENT_MIN, EXPONENT_MAX = -63, 64  # of |x| < 2**exponent; others count as the nearest of these
EXPONENTS = EXPONENT_MAX - EXPONENT_MIN + 1
SPREAD_CELLS = 2 * EXPONENTS + 1  # negative values with falling exponents, zero, positive ones with rising exponents
ZERO_CELL = EXPONENTS
BUCKETS_MAX = 4096
VALUE_BITS = 61  # of a value in fixed point; with its square, a value is 8 sums of numbers below 2**LIMB_BITS
LIMB_BITS = 31
LIMBS = 8
COLUMN_COPIES = 8
ROWS_BITS = 31  # 62 - LIMB_BITS: so many rows may be summed

Columns = Annotated[int, Meta(ge=1, le=LAYER_UNITS_MAX + 1)]


def num_columns(task: Task) -> int:
    """Return how many columns have statistics: as the schema encodes them, weights, and a target that is a value."""
    inputs = task.model.inputs if task.schema is None else len(task.schema.columns)
    return inputs + has_weights(task) + (task.loss != "cross-entropy")


def has_weights(task: Task) -> bool:
    """Return whether each row has a weight."""
    return task.schema is not None and bool(task.schema.weight)


def num_standardized(task: Task) -> int:
    """Return how many columns a model's equations have: its inputs, and a target that is a value."""
    return task.model.inputs + (task.loss != "cross-entropy")


def num_classes(task: Task) -> int:
    """Return the number of classes; 0 if the target is a value."""
    return task.model.outputs if task.loss == "cross-entropy" and not isinstance(task.model, Code) else 0


def _demand(columns: int, sums: int, num_examples: int) -> Demand:
    """Return the demand of `sums` over each column; a learner copies a block of rows, or one column, at a time."""
    copied = COLUMN_COPIES * max(num_examples, columns * min(num_examples, SPREAD_CELLS))
    return Demand(8 * (columns * sums + copied), columns * LIMBS * num_examples)


class Spread(AdditiveQuery, frozen=True, tag="spread"):
    """Count the sign and the binary exponent of each value.

    Up: `exponents` (columns, SPREAD_CELLS) int64. Minimum and maximum are no sums; these counts are, and bound both.
    """

    rows: ClassVar[View] = "columns"
    sends: ClassVar[str] = "how many values of each column have each sign and size, in powers of two"

    columns: Columns = 1
    rows_max: int = 1 << ROWS_BITS

    @property
    def row_bits(self) -> int:
        return 1

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        return {"exponents": ArrayBounds((num_columns(task), SPREAD_CELLS), np.int64, 0, num_examples)}

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: each sum counts."""
        return self.columns * SPREAD_CELLS

    def demand(self, _task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        return _demand(self.columns, SPREAD_CELLS, num_examples)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        if self.columns != num_columns(task):
            raise Rejected("values", f"expected {num_columns(task)} columns, got {self.columns}")


class Moments(AdditiveQuery, frozen=True, tag="moments"):
    """Sum the values and their squares, and count classes.

    Down: `fraction_bits` (columns,) int64. A value is q = rint(x 2**fraction_bits), at most 2**VALUE_BITS; with
    q = a 2**LIMB_BITS + b, the sums of a, b, and of a a, a b, b b in two parts each give both totals exactly.
    Up: `limbs` (columns, LIMBS), `counts` and `clipped` (columns,), `classes` (classes,), all int64.
    """

    rows: ClassVar[View] = "columns"
    counts: ClassVar[frozenset[str]] = frozenset({"classes"})
    sends: ClassVar[str] = "the sum and the sum of squares of each column"

    rows_max: int = 1 << ROWS_BITS

    def without_small(self, answer: Arrays, least: int) -> Arrays:
        """See `Query`: a column with few values is sent as one without values; their sums would show them."""
        present = answer["counts"] >= least
        kept = {"limbs": answer["limbs"] * present[:, None]}
        kept |= {name: answer[name] * present for name in ("counts", "clipped")}
        return {**super().without_small(answer, least), **kept}

    @property
    def row_bits(self) -> int:
        return LIMB_BITS

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {
            "fraction_bits": ArrayBounds(
                (num_columns(task),), np.int64, VALUE_BITS - EXPONENT_MAX, VALUE_BITS - EXPONENT_MIN
            )
        }

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        columns = num_columns(task)
        low, high = -num_examples << (LIMB_BITS - 1), num_examples << LIMB_BITS
        return {
            "limbs": ArrayBounds((columns, LIMBS), np.int64, low, high),
            "counts": ArrayBounds((columns,), np.int64, 0, num_examples),
            "clipped": ArrayBounds((columns,), np.int64, 0, num_examples),
            "classes": ArrayBounds((num_classes(task),), np.int64, 0, num_examples),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each sum counts."""
        return max(1, *shapes.get("fraction_bits", ())[:1], 0) * LIMBS

    def demand(self, _task: Task, shapes: Shapes, num_examples: int) -> Demand:
        return _demand(shapes["fraction_bits"][0], LIMBS, num_examples)


class Histograms(AdditiveQuery, frozen=True, tag="histograms"):
    """Count the values between edges.

    Down: `edges` (columns, buckets - 1) float64, rising. Up: `histograms` (columns, buckets) int64; a value that equals
    an edge is in the bucket above it.
    """

    rows: ClassVar[View] = "columns"
    counts: ClassVar[frozenset[str]] = frozenset({"histograms"})
    sends: ClassVar[str] = "how many values of each column are in each bucket"

    rows_max: int = 1 << ROWS_BITS

    @property
    def row_bits(self) -> int:
        return 1

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"edges": ArrayBounds((num_columns(task), -1))}

    def answer(self, task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        size = (num_columns(task), shapes["edges"][1] + 1)
        return {"histograms": ArrayBounds(size, np.int64, 0, num_examples)}

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each sum counts."""
        columns, edges = (*shapes.get("edges", ()), 1, 1)[:2]
        return columns * (edges + 1)

    def demand(self, _task: Task, shapes: Shapes, num_examples: int) -> Demand:
        columns, edges = shapes["edges"]
        return _demand(columns, edges + 1, num_examples)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        if not 1 <= shapes["edges"][1] < BUCKETS_MAX:
            raise Rejected("values", f"expected 1 to {BUCKETS_MAX - 1} edges, got {shapes['edges'][1]}")
