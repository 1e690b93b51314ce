"""The query `gram`: the sums of products of standardized inputs and targets."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import SUM_BITS_MAX, AdditiveQuery, ArrayBounds, Demand, Shapes
from fedmq.algorithms.standardization import PART_BITS_MAX, REACH_CELLS, PartBits, column_bounds
from fedmq.algorithms.statistics.query import num_classes, num_standardized
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.integers import triangle_of
from fedmq.models.arrays import Integers
from fedmq.models.exact_outputs import one_layer
from fedmq.models.fourier import Fourier
from fedmq.tasks.task import Task

BLOCK_VALUES, BLOCK_ROWS_MIN = 1 << 17, 512  # of the design that a learner has at once: they fit a cache


class Gram(AdditiveQuery, frozen=True, tag="gram"):
    """Sum the products of all pairs of columns: 1, features, targets.

    The features are the inputs, standardized by `shift` and `deviation`, or random Fourier features of them. The
    targets are one column for each class (1 or 0), or the standardized value. In fixed point a value is
    q = rint(z 2**f), f = 2 * part_bits - reach, which is at most 2**(2 * part_bits). It is split into two parts; of
    Fourier features, the first part is all. `held_out` has the sums of the rows whose hash is below `holdout`, `sums`
    those of the others.

    Down: `shift`, `deviation` float64 and `reach` int64, each (columns,). Up: `sums` and `held_out` (parts sums,
    pairs), `reach` (columns, REACH_CELLS), all int64. See `fedmq.exact.integers.gram_of_parts`.
    """

    sends: ClassVar[str] = "sums of products of each pair of columns"

    holdout: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.0
    part_bits: PartBits = PART_BITS_MAX
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << (SUM_BITS_MAX - 2 * PART_BITS_MAX)

    @property
    def row_bits(self) -> int:
        return 2 * self.part_bits

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return column_bounds(num_standardized(task))

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        size, most = self._size(task), num_examples << self.row_bits
        return {
            "sums": ArrayBounds(size, np.int64, -most, most),
            "held_out": ArrayBounds(size if self.holdout else (size[0], 0), np.int64, -most, most),
            "reach": ArrayBounds((num_standardized(task), REACH_CELLS), np.int64, 0, num_examples),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each pair of columns that are standardized counts; Fourier features are not counted."""
        return triangle_of(max(1, *shapes.get("shift", ())[:1], 0) + 1)

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        columns = design_columns(task)
        joined = columns if isinstance(task.model, Fourier) else 2 * columns
        return Demand(8 * (6 * joined**2 + 8 * rows_at_once(task) * columns), num_examples * joined**2)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            one_layer(task.model, "gram")
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error

    def _size(self, task: Task) -> tuple[int, int]:
        return 1 if isinstance(task.model, Fourier) else 3, triangle_of(design_columns(task))


def num_features(task: Task) -> int:
    """Return the columns of the design that are neither the constant nor a target."""
    return task.model.features if isinstance(task.model, Fourier) else task.model.inputs


def num_targets(task: Task) -> int:
    """Return the columns of the design that are targets."""
    return num_classes(task) or 1


def design_columns(task: Task) -> int:
    """Return the number of columns: the constant, the features, the targets."""
    return 1 + num_features(task) + num_targets(task)


def rows_at_once(task: Task) -> int:
    """Return the rows of a block."""
    return max(BLOCK_ROWS_MIN, BLOCK_VALUES // design_columns(task))


def fraction_bits(query: Gram, task: Task, reach: Integers) -> Integers:
    """Return the fraction bits of each column of the design, (columns,).

    Of two parts: 2 * part_bits - reach. Of Fourier features: part_bits - 1 for what is at most 1 by nature.
    """
    fourier = isinstance(task.model, Fourier)
    whole = query.part_bits if fourier else 2 * query.part_bits
    inputs = task.model.inputs
    values = whole - reach[inputs:] if not num_classes(task) else np.full(num_classes(task), whole - 1)
    features = np.full(num_features(task), whole - 1) if fourier else whole - reach[:inputs]
    return np.concatenate([[whole - 1], features, values]).astype(np.int64)
