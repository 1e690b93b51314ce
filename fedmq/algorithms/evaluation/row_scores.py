"""The aggregator's half of `score-rows`: the query for a task, and the evaluation from its total."""

import numpy as np

from fedmq.algorithms.base import SUM_BITS_MAX, Evaluation, Query, Total
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.algorithms.evaluation.query import ScoreRows
from fedmq.algorithms.standardization import rows_max_for
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.algorithms.statistics.query import num_classes
from fedmq.models.arrays import Floats
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.tasks.task import Task


def score_query(task: Task, moments: ColumnMoments) -> ScoreRows:
    """Return the query that scores a model, with units that fit the targets."""
    rows_max = rows_max_for(moments.num_examples)
    bits = min(FRACTION_BITS_MAX, SUM_BITS_MAX - ROW_LOSS_BITS - (rows_max - 1).bit_length())
    return ScoreRows(fraction_bits=bits, unit=loss_unit(task, moments), rows_max=rows_max)


def loss_unit(task: Task, moments: ColumnMoments) -> int:
    """Return the binary exponent of the unit of errors: about the deviation of a target that is a value."""
    return 0 if num_classes(task) else int(np.frexp(moments.deviations[-1])[1])


def scored(parameters: Floats, total: Total, query: Query) -> Evaluation:
    """Return the evaluation of the one model that trainers have scored."""
    assert isinstance(query, ScoreRows)
    return evaluation_of_rows(parameters, total, 2 * query.unit - query.fraction_bits)


def evaluation_of_rows(parameters: Floats, total: Total, loss_exponent: int) -> Evaluation:
    """Return the evaluation from a total with `loss`, in units of 2**loss_exponent, and `correct`."""
    loss = float(np.ldexp(float(total.arrays["loss"][0]), loss_exponent))
    fitness = -loss / total.num_examples
    return Evaluation(
        parameters=parameters,
        loss=loss,
        correct=int(total.arrays["correct"][0]),
        rows=total.num_examples,
        coverage=total.coverage,
        fitness_best=fitness,
        fitness_mean=fitness,
        fitness_worst=fitness,
        diversity=0.0,
    )
