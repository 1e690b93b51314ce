"""The trainer's half of the query `curvature`."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evaluation.exact_scores import exact_scores
from fedmq.algorithms.newton.query import (
    BLOCK_ROWS,
    OBJECTIVE_FRACTION_BITS,
    OBJECTIVE_LIMB_BITS,
    Curvature,
    is_poisson,
)
from fedmq.algorithms.standardization import REACH_MIN, count_reach
from fedmq.algorithms.statistics.query import num_classes
from fedmq.errors import BadConfiguration, WorkCancelled
from fedmq.exact.elementary import exp, linear_outputs, log, log_factorial, softmax
from fedmq.exact.integers import gram_of_parts, product, split, to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.tasks.row_views import chosen
from fedmq.tasks.task import Rows

LOG_2 = 0.6931471805599453


class _Terms(NamedTuple):
    """What a family makes of a block of rows; residuals, weights and objectives in units of 2**scale."""

    residuals: Floats  # (outputs, rows)
    weights: Floats  # (pairs of outputs, rows), not negative
    objectives: Floats  # (rows,): half the deviance; of values in units of 4**scale
    predictions: Floats  # (outputs of the model, rows), as the task scores them


def sum_curvature(query: Curvature, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Sum the objective, the gradient and the Hessian, block after block."""
    if is_poisson(work.task) and work.rows.targets.min() < 0:
        raise BadConfiguration(f"expected counts as targets of task {work.task.name}, got {work.rows.targets.min():g}")
    sizes = {name: one.shape for name, one in query.answer(work.task, {}, 1).items()}
    totals = {name: np.zeros(shape, np.int64) for name, shape in sizes.items()}
    for start in range(0, len(work.rows.inputs), BLOCK_ROWS):
        if work.cancelled():
            raise WorkCancelled("the sums were cancelled: a newer round makes them needless")
        block = slice(start, start + BLOCK_ROWS)
        _add(totals, query, work, chosen(work.rows, block))
    return totals


def _add(totals: dict[str, Integers], query: Curvature, work: Assignment, rows: Rows) -> None:
    task, inputs, bits = work.task, work.task.model.inputs, query.part_bits
    shift, deviation, reach = (work.arrays[name][:, None] for name in ("shift", "deviation", "reach"))
    columns = rows.inputs.T if num_classes(task) else np.concatenate([rows.inputs.T, rows.targets[None]])
    standardized = (columns - shift) / deviation
    reached = count_reach(standardized.T)
    design = np.concatenate([np.ones((1, standardized.shape[1])), standardized[:inputs]])
    fraction_bits = 2 * bits - np.concatenate([[[REACH_MIN]], reach[:inputs]])
    fixed = to_fixed(design, fraction_bits, 2 * bits)
    rounded = fixed * np.ldexp(1.0, -fraction_bits)  # the row's numbers from here on
    outputs = np.stack([linear_outputs(rounded, one) for one in work.arrays["coefficients"]])
    if rows.offsets is not None:  # of values, in units of the deviation
        outputs += rows.offsets / (1.0 if num_classes(task) or is_poisson(task) else deviation[inputs, 0])
    if num_classes(task):
        terms = _multinomial(outputs, rows.targets.astype(np.int64))
    elif is_poisson(task):
        terms = _poisson(outputs, rows.targets.astype(np.float64), query.scale)
        beyond = int(np.count_nonzero(outputs > query.scale * LOG_2))
        reached[-1] = 0  # counts are not standardized: their row has the means within the bound, and those beyond
        reached[-1, [0, -1]] = outputs.shape[1] - beyond, beyond
    else:
        terms = _gaussian(
            outputs, standardized[inputs], query.scale, float(shift[inputs, 0]), float(deviation[inputs, 0])
        )
    weights = np.ones(1) if rows.weights is None else np.minimum(rows.weights * np.ldexp(1.0, -query.weight_scale), 1.0)
    if rows.weights is not None:
        terms = _Terms(
            terms.residuals * weights, terms.weights * weights, terms.objectives * weights, terms.predictions
        )
    totals["reach"] += reached
    row_parts = split(fixed.T, bits)
    residual_parts = split(to_fixed(terms.residuals.T, 2 * bits, 2 * bits), bits)
    for place, (row, residual) in enumerate((a, b) for a in row_parts[:2] for b in residual_parts[:2]):
        totals["gradient"][place] += product(residual, bits, row, bits).ravel()
    for place, weight in enumerate(terms.weights):
        weighted = to_fixed(rounded * np.sqrt(weight), fraction_bits, 2 * bits)
        totals["hessian"][3 * place : 3 * place + 3] += gram_of_parts(split(weighted.T, bits), bits)
    totals["objective"] += _halves(terms.objectives)
    if is_poisson(task):
        counts = rows.targets.astype(np.float64)
        totals["constant"] += _halves((log_factorial(counts) - _saturated(counts)) * weights)
    scores = exact_scores(task, terms.predictions, rows.targets, query.loss_fraction_bits, query.unit)
    totals["loss"] += scores.loss
    totals["correct"] += scores.correct


def _multinomial(outputs: Floats, classes: Integers) -> _Terms:
    """Classes against the first one: logits, probabilities p, residuals y - p, weights p_a (1 - p_a) and p_a p_b."""
    logits = np.concatenate([np.zeros((1, outputs.shape[1])), outputs])
    probabilities, log_sum = softmax(logits)
    others = probabilities[1:]
    residuals = (np.arange(1, len(logits))[:, None] == classes) - others
    weights = [
        one * (1.0 - one) if place == other else one * others[other]
        for place, one in enumerate(others)
        for other in range(place, len(others))
    ]
    objectives = log_sum - logits[classes, np.arange(len(classes))]
    return _Terms(residuals, np.stack(weights), np.maximum(objectives, 0.0), logits)


def _gaussian(outputs: Floats, targets: Floats, scale: int, center: float, deviation: float) -> _Terms:
    """Standardized values: residuals y - x beta, weights 1."""
    residuals = (targets - outputs) * 2.0**-scale
    half = residuals[0] * residuals[0] * 0.5
    return _Terms(residuals, np.ones_like(residuals), half, outputs * deviation + center)


def _poisson(outputs: Floats, counts: Floats, scale: int) -> _Terms:
    """Counts: means mu = exp(x beta), residuals y - mu, weights mu.

    mu is at most 2**scale. Beyond that the objective is a line with the slope mu - y, so it stays convex, and the
    gradient belongs to it.
    """
    logs = np.minimum(outputs, scale * LOG_2)
    means = exp(logs)
    half = means[0] - counts * logs[0] + _saturated(counts) + (means[0] - counts) * (outputs[0] - logs[0])
    unit = 2.0**-scale
    return _Terms((counts - means) * unit, means * unit, np.maximum(half, 0.0) * unit, means)


def _saturated(counts: Floats) -> Floats:
    """Return y log y - y, 0 for no count."""
    result: Floats = counts * log(np.maximum(counts, 1e-300)) - counts
    return result


def _halves(values: Floats) -> Integers:
    """Return the sums of the high and of the low halves of values in fixed point, (2,)."""
    fixed = to_fixed(values, OBJECTIVE_FRACTION_BITS, 2 * OBJECTIVE_LIMB_BITS).astype(np.int64)
    low = fixed & ((1 << OBJECTIVE_LIMB_BITS) - 1)
    return np.array([(fixed >> OBJECTIVE_LIMB_BITS).sum(), low.sum()])


LEARNER = Learner(Curvature, sum_curvature)
