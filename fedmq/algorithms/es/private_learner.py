"""The trainer's half of the query `clipped-slopes`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.es.private_query import BLOCK_VALUES, FRACTION_BITS, NUMBER_BITS, ClippedSlopes, network
from fedmq.algorithms.statistics.query import num_classes
from fedmq.differential_privacy.clipping import clipped_rows
from fedmq.errors import WorkCancelled
from fedmq.exact.directions import directions
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX, ROW_SQUARED_ERROR_MAX
from fedmq.tasks.row_views import chosen
from fedmq.tasks.task import Rows


def sum_clipped_slopes(query: ClippedSlopes, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum the slopes of shortened rows, block after block."""
    model, weights = network(work.task.model, query.kind), work.arrays["weights"]
    moves = query.sigma * directions(query.pairs, len(weights), query.seed, query.number).block().astype(np.float64)
    candidates = np.concatenate([weights + moves, weights - moves])
    total, step = np.zeros(query.pairs, np.int64), max(1, BLOCK_VALUES // (len(candidates) * model.widest))
    for start in range(0, len(work.rows.inputs), step):
        if work.cancelled():
            raise WorkCancelled("the slopes were cancelled: a newer round makes them needless")
        rows = chosen(work.rows, slice(start, start + step))
        outputs = model.forward(candidates, rows.inputs).astype(np.float64, copy=False)
        losses = _losses(query, work, outputs, rows)
        slopes = (losses[: query.pairs] - losses[query.pairs :]) / (2.0 * query.sigma)
        fixed = to_fixed(np.nan_to_num(slopes.T), FRACTION_BITS, NUMBER_BITS)
        total += clipped_rows(fixed, query.row_limit).sum(axis=0).astype(np.int64)
    return {"slopes": total[None]}


def _losses(query: ClippedSlopes, work: Assignment, outputs: Floats, rows: Rows) -> Floats:
    """Return the loss (candidates, rows) of outputs (candidates, rows, outputs); values are standardized."""
    if num_classes(work.task):
        largest = outputs.max(axis=2, keepdims=True)
        logs = np.log(np.exp(outputs - largest).sum(axis=2)) + largest[:, :, 0]
        own = outputs[:, np.arange(len(rows.targets)), rows.targets.astype(np.int64)]
        return np.asarray(np.fmin(logs - own, ROW_CROSS_ENTROPY_MAX), np.float64)
    errors = outputs[:, :, 0] - (rows.targets - query.center) / query.unit
    return np.asarray(np.fmin(errors * errors, ROW_SQUARED_ERROR_MAX), np.float64)


LEARNER = Learner(ClippedSlopes, sum_clipped_slopes)
