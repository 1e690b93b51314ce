"""Losses and correct rows as integers, made row by row: their sums are the same bits for any split of the rows."""

from typing import NamedTuple

import numpy as np

from fedmq.exact.elementary import softmax
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX
from fedmq.tasks.task import CORRECT_WITHIN, Task

ROW_LOSS_BITS = 10  # a row's loss counts at most 2**10 nats or 4**unit


class ExactScores(NamedTuple):
    """The summed loss, in units of 2**-fraction_bits, and the number of correct rows."""

    loss: int
    correct: int


def exact_scores(
    task: Task, outputs: Floats, targets: Floats | Integers, fraction_bits: int, unit: int = 0
) -> ExactScores:
    """Score outputs (outputs, rows), as `Task.score` does. Squared errors are counted in units of 4**unit."""
    if task.loss == "cross-entropy":  # fmin takes the bound where an output is not finite
        classes = targets.astype(np.int64)
        losses = np.fmin(softmax(outputs)[1] - outputs[classes, np.arange(len(classes))], ROW_CROSS_ENTROPY_MAX)
        right = outputs.argmax(axis=0) == classes
    else:
        errors = outputs[0] - targets
        right = np.abs(errors) < CORRECT_WITHIN
        losses = np.fmin(np.square(errors * np.ldexp(1.0, -unit)), 2.0**ROW_LOSS_BITS)
    fixed = to_fixed(losses, fraction_bits, fraction_bits + ROW_LOSS_BITS).astype(np.int64)
    return ExactScores(int(fixed.sum()), int(np.count_nonzero(right)))
