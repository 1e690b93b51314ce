"""The trainer's half of the queries `private-figures` and `private-fitted`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evaluation.private_query import (
    BLOCK_ROWS,
    FRACTION_BITS,
    LOSS_MAX,
    VALUE_MAX,
    PrivateFigures,
    PrivateFitted,
)
from fedmq.algorithms.statistics.query import num_classes
from fedmq.errors import WorkCancelled
from fedmq.exact.elementary import softmax
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.exact_outputs import exact_outputs
from fedmq.models.networks import Code
from fedmq.tasks.row_views import chosen

NUMBER_BITS = 30


def measure_privately(query: PrivateFigures, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Add up counts and errors, block after block; an output that is not finite is as wrong as can be."""
    sums = {name: np.zeros(one.shape, np.int64) for name, one in query.answer(work.task, {}, 1).items()}
    model = work.task.model
    assert not isinstance(model, Code)  # a schema has none that is private
    for start in range(0, len(work.rows.inputs), BLOCK_ROWS):
        if work.cancelled():
            raise WorkCancelled("the figures were cancelled: a newer round makes them needless")
        rows = chosen(work.rows, slice(start, start + BLOCK_ROWS))
        outputs = exact_outputs(model, work.arrays["parameters"], rows.inputs, rows.offsets)
        if num_classes(work.task):
            targets = rows.targets.astype(np.int64)
            losses = np.fmin(softmax(outputs)[1] - outputs[targets, np.arange(len(targets))], LOSS_MAX)
            np.add.at(sums["confusion"], (targets, np.nan_to_num(outputs).argmax(axis=0)), 1 << FRACTION_BITS)
            sums["loss"] += _fixed(np.fmax(losses, 0.0)).sum()
        else:
            targets_in_units = _bounded((rows.targets.astype(np.float64) - query.center) / query.unit)
            errors = _bounded((outputs[0] - rows.targets.astype(np.float64)) / query.unit)
            for place, values in enumerate((errors * errors, targets_in_units, targets_in_units * targets_in_units)):
                sums["errors"][place] += _fixed(values).sum()
    return sums


def _bounded(values: Floats) -> Floats:
    return np.fmax(np.fmin(values, VALUE_MAX), -VALUE_MAX)


def _fixed(values: Floats) -> Integers:
    return to_fixed(values, FRACTION_BITS, NUMBER_BITS).astype(np.int64)


LEARNER = Learner(PrivateFigures, measure_privately)
FITTED_LEARNER = Learner(PrivateFitted, measure_privately)
