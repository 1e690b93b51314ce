"""The trainer's half of the query `gram`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.ridge.query import (
    Gram,
    fraction_bits,
    rows_at_once,
)
from fedmq.algorithms.standardization import count_reach
from fedmq.algorithms.statistics.query import num_classes
from fedmq.errors import WorkCancelled
from fedmq.exact.fourier import COSINE_BITS
from fedmq.exact.integers import gram, gram_of_parts, split, to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.fourier import Fourier
from fedmq.tasks.row_views import chosen, is_held_out
from fedmq.tasks.task import Rows


def sum_products(query: Gram, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum the products, block after block."""
    size = {name: one.shape for name, one in query.answer(work.task, {}, 1).items()}
    totals = {name: np.zeros(shape, np.int64) for name, shape in size.items()}
    at_once = rows_at_once(work.task)
    for start in range(0, len(work.rows.inputs), at_once):
        if work.cancelled():
            raise WorkCancelled("the sums were cancelled: a newer round makes them needless")
        block = slice(start, start + at_once)
        rows = chosen(work.rows, block)
        standardized = _standardized(work, rows)
        totals["reach"] += count_reach(standardized)
        fixed = _design(query, work, rows, standardized)
        held = is_held_out(rows, query.holdout)
        totals["sums"] += _sums(query, work, fixed[~held])
        if query.holdout:
            totals["held_out"] += _sums(query, work, fixed[held])
    return totals


def _standardized(work: Assignment, rows: Rows) -> Floats:
    """Return the inputs, and the target if it is a value, (rows, columns)."""
    columns = rows.inputs
    if not num_classes(work.task):
        columns = np.column_stack([rows.inputs, rows.targets.astype(np.float64)])
    standardized: Floats = (columns - work.arrays["shift"]) / work.arrays["deviation"]
    return standardized


def _design(query: Gram, work: Assignment, rows: Rows, standardized: Floats) -> Floats:
    """Return the columns in fixed point: the constant, the features, the targets; (rows, columns)."""
    task, inputs, classes = work.task, work.task.model.inputs, num_classes(work.task)
    if isinstance(task.model, Fourier):
        shift, deviation = work.arrays["shift"][:inputs], work.arrays["deviation"][:inputs]
        features = task.model.integer_features(rows.inputs, shift, deviation)
        features *= 2.0**-COSINE_BITS
        bits = query.part_bits
    else:
        features = standardized[:, :inputs]
        bits = 2 * query.part_bits
    targets = rows.targets[:, None] == np.arange(classes) if classes else standardized[:, inputs:]
    columns = np.column_stack([np.ones(len(rows.inputs)), features, targets])
    return to_fixed(columns, fraction_bits(query, task, work.arrays["reach"]), bits)


def _sums(query: Gram, work: Assignment, fixed: Floats) -> Integers:
    if isinstance(work.task.model, Fourier):
        return gram(fixed, query.part_bits)
    return gram_of_parts(split(fixed, query.part_bits), query.part_bits)


LEARNER = Learner(Gram, sum_products)
