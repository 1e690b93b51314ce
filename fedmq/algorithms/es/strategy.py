"""Evolution strategies with seeds instead of directions: half a kilobyte a round, whatever the size of the model.

Each round moves the weights along the gradient that pairs of candidates measure, weights + sigma e and weights - sigma
e, as in Salimans et al. (2017), "Evolution strategies as a scalable alternative to reinforcement learning" (arXiv
1703.03864), from where the shared seed comes, too: every party draws the same directions, so only numbers go up. FedES
(Lan et al. 2023), EvoFed (Rahimi et al. 2023) and DeComFL (Li et al. 2024) federate it: trainers send the loss of each
candidate, or of steps that they have taken on their own rows. Here the answer is one difference for each pair, summed
over rows as integers. So the total is that of the pooled rows, bit for bit, however they are split. Directions are
signs, orthogonal over a cycle (`fedmq.exact.directions`); the optimizer is AdamW (Loshchilov and Hutter 2019) at the
aggregator, and the model to deploy is an average of the weights (Polyak and Juditsky 1992).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.additive import Additive
from fedmq.algorithms.base import SUM_BITS_MAX, Evaluation, Plan, Total, check_down
from fedmq.algorithms.es.clipped import Clipped
from fedmq.algorithms.es.query import PAIR_BITS, SCORED_PAIR_BITS, STARTS_MAX, Pairs, Sigma, Slopes, check_movable
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.algorithms.evaluation.row_scores import loss_unit
from fedmq.algorithms.inbox import GENE_MAX, ROUNDS_REMEMBERED
from fedmq.algorithms.standardization import rows_max_for
from fedmq.algorithms.statistics.survey import Survey, moments_of_rows
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.directions import KEPT_MAX, directions, size_for
from fedmq.exact.draws import normals
from fedmq.exact.integers import check_products
from fedmq.models.arrays import Floats, Integers
from fedmq.models.layers import Layered, initial_parameters
from fedmq.models.networks import Model
from fedmq.models.standardized import Standard, standard_for
from fedmq.models.torch_model import Torch
from fedmq.models.torch_modules import initial_module_parameters
from fedmq.models.trained_model import TrainedModel
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.tasks.task import Task

DECAY_1, DECAY_2, TINY = 0.9, 0.99, 1e-8  # of Adam
STARTS_OF_PAIRS = 240  # tiny models begin with so many pairs in all, with one start for each cycle of directions
STARTS_MOST = 8
WARM_UP = 10  # rounds until the average has its full memory
SUM_BITS = 15  # that a slope over all rows may have, about: of answers that fit int16 if trainers are several
FRACTION_BITS_LEAST, FRACTION_BITS_MOST = 2, 20
SCORED_FRACTION_BITS, SCORED_UNIT = 10, 8  # of a model that only its code scores: losses of any size
SCORED_SPREAD = 0.5  # standard deviation of its first parameters
PRODUCT_BITS = 44  # of a total times a sign, summed over many pairs in float64


class EvolutionStrategyParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `es`."""

    pairs: Pairs = 240  # of candidates in a round: two bytes each go up, if they fit int16
    sigma: Sigma = 0.05  # how far a candidate is from the weights, in each of them
    learning_rate: Annotated[float, Meta(gt=0.0, le=10.0)] = 0.05
    weight_decay: Annotated[float, Meta(ge=0.0, le=10.0)] = 0.5  # weights shrink by this times the learning rate
    average: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.8  # memory of the average of the weights
    starts: Annotated[int, Meta(ge=1, le=STARTS_MAX)] | None = None  # weights that are trained at once; None: by size
    rule: Literal["none", "clip"] = "none"  # against Byzantine trainers


@dataclass(frozen=True, eq=False)
class Movement:
    """Weights and what Adam knows about them, each (starts, parameters) float64, for standardized rows."""

    weights: Floats
    average: Floats
    mean: Floats
    square: Floats
    steps: int = 0
    power_1: float = 1.0  # DECAY_1**steps, by repeated multiplication
    power_2: float = 1.0


@dataclass(frozen=True, eq=False)
class SlopesState:
    """The state while round `number` is open."""

    task: Task
    seed: int
    means: Floats  # of the columns, by which rows are standardized
    variances: Floats
    num_examples: int  # in the survey
    unit: int
    movement: Movement
    number: int = 1
    used: dict[int, Integers] = field(default_factory=dict)  # slopes of rounds that not every member has answered
    evaluation: Evaluation | None = None


class EvolutionStrategy:
    """The strategy of `es`: see `fedmq.algorithms.base.AdditiveAlgorithm`.

    Slopes are divided by their root mean square, so the step does not depend on the scale of the loss or the number of
    trainers. A late answer moves the weights along the directions of its own round, with weight 1 / (1 + staleness).
    """

    name = "es"
    needs_survey = True
    keeps_survey = True
    Parameters = EvolutionStrategyParameters

    def __init__(self, parameters: EvolutionStrategyParameters | None = None) -> None:
        self.parameters = parameters or EvolutionStrategyParameters()

    @property
    def summed_by(self) -> type[Additive]:
        """How answers are added: as they are, or shortened."""
        return Clipped if self.parameters.rule == "clip" else Additive

    def init(self, task: Task, seed: int, survey: Survey) -> SlopesState:
        check_movable(task.model, "algorithm es")
        moments = moments_of_rows(task, survey)
        size = task.model.num_parameters
        starts = self.parameters.starts or max(1, min(STARTS_MOST, STARTS_OF_PAIRS // size_for(size)))
        model = task.model
        first = [_first(model, seed, place) for place in range(starts)]
        state = SlopesState(
            task=task,
            seed=seed,
            means=moments.means,
            variances=moments.variances,
            num_examples=survey.num_examples,
            unit=loss_unit(task, moments) if isinstance(model, Layered) else SCORED_UNIT,
            movement=_at_rest(np.stack(first)),
        )
        try:
            plan = self.ask(state)
            check_down(plan.query, task, plan.arrays)
        except Rejected as refused:
            raise BadConfiguration(f"algorithm es: {refused.detail}") from refused
        return state

    def starting_at(self, state: SlopesState, trained: TrainedModel) -> SlopesState:
        """Return the state whose weights are all those of an earlier model."""
        parameters = trained.parameters
        if isinstance(trained.model, Layered):
            parameters = _standard(state).standardized(trained.model, parameters)
        return replace(state, movement=_at_rest(np.repeat(parameters[None], len(state.movement.weights), axis=0)))

    def ask(self, state: SlopesState) -> Plan:
        """Publish the weights to move, and their averages to score."""
        chosen, size = self.parameters, state.task.model.num_parameters
        rows_max, layered = rows_max_for(state.num_examples), isinstance(state.task.model, Layered)
        bits = SUM_BITS - max(0, state.num_examples - 1).bit_length()
        query = Slopes(
            seed=state.seed,
            number=state.number,
            pairs=min(chosen.pairs, size_for(size)),
            sigma=chosen.sigma,
            unit=state.unit,
            pair_bits=PAIR_BITS if layered else SCORED_PAIR_BITS,
            fraction_bits=max(FRACTION_BITS_LEAST, min(FRACTION_BITS_MOST, bits)) if layered else SCORED_FRACTION_BITS,
            loss_bits=min(FRACTION_BITS_MAX, SUM_BITS_MAX - ROW_LOSS_BITS - (rows_max - 1).bit_length()),
            rows_max=rows_max,
        )
        weights = _published(np.concatenate([state.movement.weights, state.movement.average]))
        return Plan(query, {"weights": weights, "standard": _standard(state).array})

    def close(self, state: SlopesState, total: Total | None, late: Mapping[int, Total]) -> SlopesState:
        """Move the weights along the slopes of this round, and of late answers along those of theirs."""
        shape = (len(state.movement.weights), min(self.parameters.pairs, size_for(state.task.model.num_parameters)))
        slopes = np.zeros(shape, np.int64) if total is None else total.arrays["slopes"]
        used, found = dict(state.used), {state.number: slopes}
        for number in sorted(late.keys() & used.keys()):
            found[number] = late[number].arrays["slopes"] - used[number]
            used[number] = late[number].arrays["slopes"]
        if total is None or total.coverage < 1.0:
            used[state.number] = slopes
        oldest = state.number + 1 - ROUNDS_REMEMBERED
        return replace(
            state,
            movement=self._moved(state, found),
            number=state.number + 1,
            used={number: one for number, one in used.items() if number > oldest},
            evaluation=state.evaluation if total is None else self._evaluated(state, total),
        )

    def evaluation(self, state: SlopesState) -> Evaluation | None:
        """Return the average of the weights with the best score; the newest, if not all members have scored both."""
        return state.evaluation

    def _moved(self, state: SlopesState, found: Mapping[int, Integers]) -> Movement:
        """Return the weights after a step of AdamW along the sum of slope times direction."""
        chosen, before, size = self.parameters, state.movement, state.task.model.num_parameters
        gradient, squares = np.zeros(before.weights.shape), np.zeros(len(before.weights))
        for number, slopes in sorted(found.items()):
            if not slopes.any():
                continue
            weight, count = 1.0 / (1 + state.number - number), slopes.shape[1]
            gradient += _along(slopes, size, state.seed, number) * (weight / count)
            squares += [weight * weight * (sum(int(one) ** 2 for one in row) / count) for row in slopes]
        if not squares.any():
            return before  # no trainer has answered, or the loss is flat
        gradient /= np.sqrt(np.where(squares > 0.0, squares, 1.0))[:, None]
        rate, steps = chosen.learning_rate, before.steps + 1
        power_1, power_2 = before.power_1 * DECAY_1, before.power_2 * DECAY_2
        mean = DECAY_1 * before.mean + (1.0 - DECAY_1) * gradient
        square = DECAY_2 * before.square + (1.0 - DECAY_2) * gradient * gradient
        weights = before.weights * (1.0 - rate * chosen.weight_decay)
        weights -= rate * (mean / (1.0 - power_1)) / (np.sqrt(square / (1.0 - power_2)) + TINY)
        weights = np.clip(weights, -GENE_MAX, GENE_MAX)
        memory = min(chosen.average, steps / (steps + WARM_UP))
        average = memory * before.average + (1.0 - memory) * weights
        return Movement(weights, average, mean, square, steps, power_1, power_2)

    def _evaluated(self, state: SlopesState, total: Total) -> Evaluation:
        """Return the evaluation of the best start, or the one before if all members have scored both and it is better.

        With a rule against Byzantine trainers, whose scores no rule bounds, the newest model stands.
        """
        model, movement = state.task.model, state.movement
        losses = np.ldexp(total.arrays["loss"].astype(np.float64), 2 * state.unit - self.ask(state).query.loss_bits)  # type: ignore[attr-defined]
        correct = [int(one) for one in total.arrays["correct"]]
        place = min(range(len(losses)), key=lambda one: _rank(state.task, correct[one], float(losses[one])))
        parameters = _published(movement.average)[place].astype(np.float64)
        fitness = -losses / total.num_examples
        new = Evaluation(
            parameters=_standard(state).raw(model, parameters) if isinstance(model, Layered) else parameters,
            loss=float(losses[place]),
            correct=correct[place],
            rows=total.num_examples,
            coverage=total.coverage,
            fitness_best=float(fitness.max()),
            fitness_mean=math.fsum(fitness.tolist()) / len(fitness),
            fitness_worst=float(fitness.min()),
            diversity=float(movement.average.std(axis=0).mean()),
        )
        old = state.evaluation
        if old is None or self.parameters.rule != "none" or min(old.coverage, new.coverage) < 1.0:
            return new
        per_row = _rank(state.task, old.correct / old.rows, old.loss / old.rows)
        return old if per_row < _rank(state.task, new.correct / new.rows, new.loss / new.rows) else new


def _first(model: Model, seed: int, start: int) -> Floats:
    """Return the first weights of a start; a PyTorch module draws its own."""
    if isinstance(model, Torch):
        return initial_module_parameters(model, seed, start)
    if isinstance(model, Layered):
        return initial_parameters(model, seed, "es", "start", start)
    return normals(model.num_parameters, seed, "es", "start", start) * SCORED_SPREAD


def _rank(task: Task, correct: float, loss: float) -> tuple[float, float]:
    """Return a key that is smaller for a better score."""
    return (-correct if task.metric == "accuracy" else 0.0, loss)


def _at_rest(weights: Floats) -> Movement:
    zeros = np.zeros_like(weights)
    return Movement(weights, weights, zeros, zeros)


def _published(weights: Floats) -> np.ndarray:
    """Return weights as they go down, float32: the model that is scored, and deployed, has these."""
    return weights.astype(np.float32)


def _standard(state: SlopesState) -> Standard:
    values = state.task.loss == "squared-error"
    return standard_for(state.task.model, state.means, state.variances, values=values)


def _along(slopes: Integers, parameters: int, seed: int, number: int) -> Floats:
    """Return the sum of slope times direction, (starts, parameters) float64: exact, as long as the slopes are small."""
    check_products()
    drawn = directions(slopes.shape[1], parameters, seed, number)
    excess = max(0, max(int(slopes.max()), -int(slopes.min())).bit_length() - PRODUCT_BITS)
    factors = (slopes >> excess).astype(np.float64)
    total = np.zeros((len(slopes), parameters))
    at_once = max(1, KEPT_MAX // parameters)
    for start in range(0, drawn.count, at_once):
        block = drawn.block(start, start + at_once).astype(np.float64)
        total += factors[:, start : start + at_once] @ block
    return total * 2.0**excess
