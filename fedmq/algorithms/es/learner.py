"""The trainer's half of the query `slopes`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import Arrays, Assignment, Learner
from fedmq.algorithms.es.movement import Movement
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.evaluation.exact_scores import exact_scores
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED
from fedmq.algorithms.standardization import AXES, STANDARD
from fedmq.errors import Rejected, WorkCancelled
from fedmq.exact.directions import Directions, directions
from fedmq.exact.integers import to_fixed
from fedmq.models.arrays import Floats, Integers
from fedmq.models.exact_outputs import exact_outputs
from fedmq.models.layers import Layered
from fedmq.models.pairs import pair_differences
from fedmq.models.standardized import Standard
from fedmq.models.torch_model import Torch
from fedmq.tasks.row_views import chosen
from fedmq.tasks.task import Task

BLOCK_ROWS = 4096
CANDIDATE_VALUES = 1 << 20  # parameters of candidates that are scored at once

Sums = dict[str, npt.NDArray[Any]]


def sum_slopes(query: Slopes, work: Assignment) -> Sums:
    """Sum the slopes along the directions, and score the weights; see the query for what an answer holds."""
    weights = work.arrays["weights"] if query.optimizer is None else Movement.of(work.arrays).published
    to_move, to_score = np.split(weights.astype(np.float64), 2)
    drawn = directions(query.pairs, to_move.shape[1], query.seed, query.number)
    sums = _of_network if isinstance(work.task.model, Layered) else _of_scores
    return sums(query, work, drawn, to_move, to_score)


def _of_network(query: Slopes, work: Assignment, drawn: Directions, to_move: Floats, to_score: Floats) -> Sums:
    """Evaluate a network in integers, on standardized rows."""
    task, model = work.task, work.task.model
    assert isinstance(model, Layered)
    standard = Standard.of(work.arrays[STANDARD], work.arrays.get(AXES))
    network = standard.network(model)
    inputs = np.ascontiguousarray(standard.inputs(work.rows.inputs).T)
    targets: Floats | Integers = work.rows.targets
    if task.loss != "cross-entropy":
        targets = standard.values(targets)
    slopes = [
        pair_differences(
            network, weights, drawn, query.sigma, inputs, targets, query.fraction_bits, cancelled=work.cancelled
        )
        for weights in to_move
    ]
    scores = [_scored(query, work, standard, weights, inputs) for weights in to_score]
    loss, correct = np.array(scores, np.int64).T
    return {"slopes": np.stack(slopes), "loss": loss, "correct": correct}


def _scored(query: Slopes, work: Assignment, standard: Standard, weights: Floats, inputs: Floats) -> tuple[int, int]:
    """Return the loss and the correct rows of the model that would be deployed, row by row as it predicts them.

    Along axes it is the network on standardized `inputs` (inputs, rows), which is smaller, and differs by rounding.
    """
    model, axes, loss, correct = work.task.model, standard.axes, 0, 0
    assert isinstance(model, Layered)
    raw = standard.raw(model, weights) if axes is None else weights
    for start in range(0, len(work.rows.inputs), BLOCK_ROWS):
        if start and work.cancelled():
            raise WorkCancelled("the scores were cancelled: a newer round makes them needless")
        block = slice(start, start + BLOCK_ROWS)
        rows = chosen(work.rows, block)
        if axes is None:
            outputs = exact_outputs(model, raw, rows.inputs, rows.offsets)
        else:
            outputs = exact_outputs(standard.network(model), raw, inputs.T[block])
            outputs = outputs * standard.unit + standard.center
        scores = exact_scores(work.task, outputs, rows.targets, query.loss_bits, query.unit)
        loss, correct = loss + scores.loss, correct + scores.correct
    return loss, correct


def _of_scores(query: Slopes, work: Assignment, drawn: Directions, to_move: Floats, to_score: Floats) -> Sums:
    """Score the two candidates of each pair as the task scores any candidates; each trainer's sum is rounded once."""
    if isinstance(work.task.model, Torch):
        return _of_module(query, work, drawn, to_move, to_score)
    at_once = max(1, CANDIDATE_VALUES // drawn.parameters)
    slopes = np.zeros((len(to_move), drawn.count))
    for start in range(0, drawn.count, at_once):
        moves = query.sigma * drawn.block(start, start + at_once).astype(np.float64)
        for place, weights in enumerate(to_move):
            losses = work.score(np.concatenate([weights + moves, weights - moves])).losses
            slopes[place, start : start + at_once] = losses[: len(moves)] - losses[len(moves) :]
    losses, correct = work.score(to_score)
    return {
        "slopes": _in_units(slopes, query.fraction_bits, len(work.rows.inputs) << query.pair_bits),
        "loss": _in_units(losses * 4.0**-query.unit, query.loss_bits, len(work.rows.inputs) << 10),
        "correct": correct,
    }


def _of_module(query: Slopes, work: Assignment, drawn: Directions, to_move: Floats, to_score: Floats) -> Sums:
    """Score one candidate after the other in one PyTorch module, without gradients.

    The directions come from the seed, and so take the memory of one: after Malladi et al. (2023), "Fine-tuning language
    models with just forward passes" (MeZO, arXiv 2305.17333).
    """
    slopes, sigma = np.zeros((len(to_move), drawn.count)), np.float32(query.sigma)
    for place, weights in enumerate(to_move.astype(np.float32)):
        for number in range(drawn.count):
            if work.cancelled():
                raise WorkCancelled("the slopes were cancelled: a newer round makes them needless")
            for sign in (1, -1):
                candidate = sign * sigma * drawn.block(number, number + 1)
                candidate += weights
                slopes[place, number] += sign * work.score(candidate).losses[0]  # type: ignore[arg-type]
    losses, correct = work.score(to_score)
    return {
        "slopes": _in_units(slopes, query.fraction_bits, len(work.rows.inputs) << query.pair_bits),
        "loss": _in_units(losses * 4.0**-query.unit, query.loss_bits, len(work.rows.inputs) << 10),
        "correct": correct,
    }


def _in_units(values: Floats, fraction_bits: int, largest: int) -> Integers:
    """Return values, at most ±largest, as integers; a difference that is not a number is none."""
    bounded = np.where(np.isnan(values), 0.0, np.clip(values, -largest, largest))
    return to_fixed(bounded, fraction_bits, 62).astype(np.int64)


def follow(query: Slopes, _task: Task, arrays: Arrays, delta: Arrays, cancelled: Callable[[], bool]) -> Arrays:
    """Move the weights of the last round along its total, as the aggregator does."""
    assert query.optimizer is not None
    before, slopes = Movement.of(arrays), delta["slopes"]
    numbers, starts = delta["rounds"].tolist(), len(before.weights)
    oldest = query.number - ROUNDS_REMEMBERED
    if len(slopes) != len(numbers) * starts or not all(oldest <= one < query.number for one in numbers):
        raise Rejected("values", f"expected slopes of the {ROUNDS_REMEMBERED} rounds before {query.number}")
    found = {number: slopes[place * starts :][:starts] for place, number in enumerate(numbers)}
    return query.optimizer.moved(before, found, query.seed, query.number - 1, cancelled).arrays


LEARNER = Learner(Slopes, sum_slopes, follow)
