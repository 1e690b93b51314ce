"""The trainer's half of the queries `held-out` and `fitted`."""

from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evaluation.held_out import (
    BLOCK_ROWS,
    CALIBRATION_BINS,
    LIMB_BITS,
    LOSS_BITS,
    NUMBER_BITS,
    SCORE_CELLS,
    SQUARE_BITS,
    VALUE_BITS,
    Fitted,
    HeldOut,
)
from fedmq.algorithms.statistics.query import num_classes
from fedmq.errors import WorkCancelled
from fedmq.exact.elementary import softmax
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.exact_outputs import exact_outputs
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX
from fedmq.models.networks import Code
from fedmq.tasks.row_views import chosen
from fedmq.tasks.task import CORRECT_WITHIN

OUTPUT_MAX = 1e100  # an output that is not finite counts as this: a difference of two stays finite

Sums = dict[str, npt.NDArray[Any]]


def measure(query: HeldOut, work: Assignment) -> Sums:
    """Add up what is measured of the model, block after block."""
    shapes = {name: bounds.shape for name, bounds in query.answer(work.task, {}, 1).items()}
    sums: Sums = {name: np.zeros(shape, np.int64) for name, shape in shapes.items()}
    parameters, model = work.arrays["parameters"], work.task.model
    if isinstance(model, Code):
        if len(work.rows.inputs):
            losses, correct = work.score(parameters[None])
            sums["loss"] += halves(losses, LOSS_BITS)
            sums["correct"] += correct
        return sums
    for start in range(0, len(work.rows.inputs), BLOCK_ROWS):
        if work.cancelled():
            raise WorkCancelled("the figures were cancelled: a newer round makes them needless")
        block = slice(start, start + BLOCK_ROWS)
        rows = chosen(work.rows, block)
        outputs, targets = exact_outputs(model, parameters, rows.inputs, rows.offsets), rows.targets
        if num_classes(work.task):
            _add_classes(sums, outputs, targets.astype(np.int64), work.arrays["edges"])
        else:
            _add_values(sums, outputs[0], targets, query)
    return sums


def _add_classes(sums: Sums, outputs: Floats, targets: Integers, edges: Floats) -> None:
    """Add a block: the class with the largest output is predicted, the first of equal ones."""
    classes, finite = len(outputs), np.isfinite(outputs).all(axis=0)
    outputs = np.fmax(np.fmin(outputs, OUTPUT_MAX), -OUTPUT_MAX)
    predicted = outputs.argmax(axis=0)
    np.add.at(sums["confusion"], (targets, predicted), 1)
    probabilities, log_sum = softmax(outputs)
    odds = outputs[1:] - outputs[:1] if classes == 2 else _log_odds(outputs)
    for place, (score, cuts) in enumerate(zip(odds, edges, strict=True)):
        cells = np.searchsorted(cuts, score, side="right")
        of_class = targets == (1 if classes == 2 else place)
        sums["scores"][place] += np.bincount(cells[~of_class], minlength=SCORE_CELLS)
        sums["scores"][len(edges) + place] += np.bincount(cells[of_class], minlength=SCORE_CELLS)
    shares, right = (
        (probabilities[1], targets == 1) if classes == 2 else (probabilities.max(axis=0), targets == predicted)
    )
    bins = np.searchsorted(np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS, shares, side="left")
    sums["calibration"] += [np.bincount(bins[kept], minlength=CALIBRATION_BINS) for kept in (bins >= 0, right)]
    np.add.at(sums["shares"], bins, _halves_of_rows(shares, LOSS_BITS))
    losses = np.minimum(log_sum - outputs[targets, np.arange(len(targets))], ROW_CROSS_ENTROPY_MAX)
    losses[~finite] = ROW_CROSS_ENTROPY_MAX
    squares = np.zeros(len(targets))
    for place, share in enumerate(probabilities):  # one after the other: a row's sum has one order
        squares += np.square(share - (targets == place))
    sums["row_losses"] += [halves(losses, LOSS_BITS), halves(squares, LOSS_BITS)]


def _log_odds(outputs: Floats) -> Floats:
    """Return the log odds (classes, rows) of each class against the rest; nothing cancels for sure classes."""
    largest = outputs.max(axis=0)
    result = np.empty_like(outputs)
    for place, output in enumerate(outputs):
        others = np.delete(outputs, place, axis=0)
        result[place] = output - softmax(others)[1]
    return np.where(np.isfinite(largest), result, 0.0)


def _add_values(sums: Sums, outputs: Floats, targets: npt.NDArray[Any], query: HeldOut) -> None:
    """Add a block; an error that is not a number counts at the bound."""
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.abs(outputs - targets)
        sums["correct"] += np.count_nonzero(errors < CORRECT_WITHIN)
        unit = np.ldexp(1.0, -query.unit)
        errors = np.fmin(errors * unit, OUTPUT_MAX)
        values = (targets - query.center) * unit
    bound = np.ldexp(1.0, NUMBER_BITS - VALUE_BITS)
    sums["clipped"] += np.count_nonzero(errors > bound) + np.count_nonzero(np.abs(values) > bound)
    sums["errors"] += [
        halves(errors, VALUE_BITS),
        halves(np.square(errors), SQUARE_BITS),
        halves(values, VALUE_BITS),
        halves(np.square(values), SQUARE_BITS),
    ]


def halves(numbers: Floats, fraction_bits: int) -> Integers:
    """Return the sums (2,) of the high and of the low halves of numbers in fixed point."""
    total: Integers = _halves_of_rows(numbers, fraction_bits).sum(axis=0)
    return total


def _halves_of_rows(numbers: Floats, fraction_bits: int) -> Integers:
    fixed = to_fixed(numbers, fraction_bits, NUMBER_BITS).astype(np.int64)
    return np.stack([fixed >> LIMB_BITS, fixed & ((1 << LIMB_BITS) - 1)], axis=-1)


LEARNER = Learner(HeldOut, measure)
FITTED_LEARNER = Learner(Fitted, measure)
