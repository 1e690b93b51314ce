"""The trainer's half of the queries `clipped-curvature` and `clipped-products`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.newton.private_query import (
    BLOCK_ROWS,
    RESIDUAL_BITS,
    RESIDUAL_FRACTION_BITS,
    ROW_BITS,
    ROW_FRACTION_BITS,
    ClippedCurvature,
)
from fedmq.algorithms.statistics.query import num_classes
from fedmq.differential_privacy.clipping import clipped_rows
from fedmq.errors import WorkCancelled
from fedmq.exact.elementary import linear_outputs, sigmoid, softmax
from fedmq.exact.integers import gram, product, to_fixed
from fedmq.models.arrays import Floats
from fedmq.tasks.row_views import chosen
from fedmq.tasks.task import Rows, Task

LONGER = 1.0 + 2.0**-46  # than a length, whatever rounding takes from it


def sum_clipped_curvature(query: ClippedCurvature, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum gradients and products, block after block."""
    sizes = query.answer(work.task, {}, 1)
    totals = {name: np.zeros(one.shape, np.int64) for name, one in sizes.items()}
    limit, gradient_limit = query.residual_limit(work.task), query.gradient_limit(work.task)
    for start in range(0, len(work.rows.inputs), BLOCK_ROWS):
        if work.cancelled():
            raise WorkCancelled("the sums were cancelled: a newer round makes them needless")
        rows = chosen(work.rows, slice(start, start + BLOCK_ROWS))
        design = np.concatenate([np.ones((len(rows.inputs), 1)), rows.inputs], axis=1)
        fixed = clipped_rows(to_fixed(design, ROW_FRACTION_BITS, ROW_BITS), query.row_limit)
        shortened = fixed.T * 2.0**-ROW_FRACTION_BITS
        outputs = np.stack([linear_outputs(shortened, one) for one in work.arrays["coefficients"]])
        residuals = _residuals(query, work.task, outputs, rows)
        lengths = np.ceil(np.sqrt(np.square(fixed).sum(axis=1)) * LONGER)
        limits = np.minimum(float(limit), np.floor(gradient_limit / lengths))
        fixed_residuals = clipped_rows(to_fixed(residuals.T, RESIDUAL_FRACTION_BITS, RESIDUAL_BITS), limits)
        totals["gradient"] += product(fixed_residuals, RESIDUAL_BITS, fixed, ROW_BITS)
        totals["products"] += gram(fixed, ROW_BITS)[0]
    return totals


def _residuals(query: ClippedCurvature, task: Task, outputs: Floats, rows: Rows) -> Floats:
    """Return the residuals (residuals, rows) of outputs of the same shape; all finite, as no row may be refused."""
    outputs, classes = np.nan_to_num(outputs), num_classes(task)
    if not classes:
        return np.nan_to_num((rows.targets - query.center) / query.unit - outputs)
    own = rows.targets == (np.ones((1, 1)) if classes == 2 else np.arange(classes)[:, None])
    if query.squares:
        return np.asarray(own - 1.0 / classes - outputs, np.float64)
    return np.asarray(own - (sigmoid(outputs) if classes == 2 else softmax(outputs)[0]), np.float64)


LEARNER = Learner(ClippedCurvature, sum_clipped_curvature)
