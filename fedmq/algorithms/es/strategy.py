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
from fedmq.algorithms.es.movement import AdamW, Decay, Memory, Movement, Rate
from fedmq.algorithms.es.query import PAIR_BITS, SCORED_PAIR_BITS, STARTS_MAX, Pairs, Sigma, Slopes, check_movable
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.algorithms.evaluation.row_scores import loss_unit
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED
from fedmq.algorithms.standardization import Components, chosen_network, rows_max_for, standard_arrays
from fedmq.algorithms.statistics.survey import Survey, standard_of
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.directions import size_for
from fedmq.exact.draws import normals
from fedmq.models.arrays import Floats, Integers
from fedmq.models.layers import Layered, initial_parameters
from fedmq.models.networks import Model
from fedmq.models.standardized import Standard
from fedmq.models.torch_model import Torch
from fedmq.models.torch_modules import initial_module_parameters
from fedmq.models.trained_model import TrainedModel
from fedmq.protocol.codec import FRAME_BYTES_MAX
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.tasks.task import Task

STARTS_OF_PAIRS = 240  # tiny models begin with so many pairs in all, with one start for each cycle of directions
STARTS_MOST = 8
SUM_BITS = 15  # that a slope over all rows may have, about: of answers that fit int16 if trainers are several
FRACTION_BITS_LEAST, FRACTION_BITS_MOST = 2, 20
SCORED_FRACTION_BITS, SCORED_UNIT = 10, 8  # of a model that only its code scores: losses of any size
MOVEMENT_BYTES_MAX = FRAME_BYTES_MAX * 3 // 4  # of a model whose weights trainers move by themselves
SCORED_SPREAD = 0.5  # standard deviation of its first parameters


class EvolutionStrategyParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `es`."""

    pairs: Pairs = 240  # of candidates in a round: two bytes each go up, if they fit int16
    sigma: Sigma = 0.05  # how far a candidate is from the weights, in each of them
    learning_rate: Rate = 0.07
    weight_decay: Decay = 0.7  # weights shrink by this times the learning rate
    average: Memory = 0.95  # memory of the average, at most
    starts: Annotated[int, Meta(ge=1, le=STARTS_MAX)] | None = None  # weights that are trained at once; None: by size
    components: Components = 0  # principal axes that a network gets instead of all inputs; 0: all inputs
    rule: Literal["none", "clip"] = "none"  # against Byzantine trainers


@dataclass(frozen=True, eq=False)
class SlopesState:
    """The state while round `number` is open."""

    task: Task
    seed: int
    standard: Standard  # by which rows are standardized
    model: Model  # that is trained: with components, the task's with fewer inputs
    num_examples: int  # in the survey
    unit: int
    movement: Movement
    number: int = 1
    found: dict[int, Integers] = field(default_factory=dict)  # slopes by round that moved the weights at the last close
    used: dict[int, Integers] = field(default_factory=dict)  # slopes of rounds that not every member has answered
    evaluation: Evaluation | None = None


class EvolutionStrategy:
    """The strategy of `es`: see `fedmq.algorithms.base.AdditiveAlgorithm`.

    The optimizer is in `fedmq.algorithms.es.movement`.
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

    @property
    def _optimizer(self) -> AdamW:
        chosen = self.parameters
        return AdamW(chosen.learning_rate, chosen.weight_decay, chosen.average)

    @property
    def components(self) -> int:
        """See `Additive`."""
        return self.parameters.components

    def init(self, task: Task, seed: int, survey: Survey) -> SlopesState:
        check_movable(task.model, "algorithm es")
        model = chosen_network(task.model, self.components, self.name)
        size = model.num_parameters
        starts = self.parameters.starts or max(1, min(STARTS_MOST, STARTS_OF_PAIRS // size_for(size)))
        first = [_first(model, seed, place) for place in range(starts)]
        state = SlopesState(
            task=task,
            seed=seed,
            standard=standard_of(task, survey, self.components),
            model=model,
            num_examples=survey.num_examples,
            unit=loss_unit(task, survey.features) if isinstance(model, Layered) else SCORED_UNIT,
            movement=Movement.at_rest(np.stack(first)),
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
            parameters = state.standard.standardized(trained.model, parameters)
        starts = len(state.movement.weights)
        return replace(state, movement=Movement.at_rest(np.repeat(parameters[None], starts, axis=0)))

    def ask(self, state: SlopesState) -> Plan:
        """Publish the weights and how they move, or the slopes that moved them; a large model's weights alone."""
        chosen, size = self.parameters, state.model.num_parameters
        rows_max, layered = rows_max_for(state.num_examples), isinstance(state.model, Layered)
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
            components=chosen.components,
            optimizer=self._optimizer if state.movement.nbytes_max <= MOVEMENT_BYTES_MAX else None,
        )
        standard = standard_arrays(state.standard)
        if query.optimizer is None:
            return Plan(query, {"weights": state.movement.published, **standard})
        rounds = sorted(state.found)
        slopes = [state.found[number] for number in rounds]
        delta = {"rounds": np.array(rounds), "slopes": np.concatenate(slopes)} if rounds else None
        return Plan(query, {**state.movement.arrays, **standard}, delta)

    def close(self, state: SlopesState, total: Total | None, late: Mapping[int, Total]) -> SlopesState:
        """Move the weights along the slopes of this round, and of late answers along those of theirs."""
        shape = (len(state.movement.weights), min(self.parameters.pairs, size_for(state.model.num_parameters)))
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
            movement=self._optimizer.moved(state.movement, found, state.seed, state.number),
            number=state.number + 1,
            found=found,
            used={number: one for number, one in used.items() if number > oldest},
            evaluation=state.evaluation if total is None else self._evaluated(state, total),
        )

    def evaluation(self, state: SlopesState) -> Evaluation | None:
        """Return the average of the weights with the best score; the newest, if not all members have scored both."""
        return state.evaluation

    def _evaluated(self, state: SlopesState, total: Total) -> Evaluation:
        """Return the evaluation of the best start, or the one before if all members have scored both and it is better.

        With a rule against Byzantine trainers, whose scores no rule bounds, the newest model stands.
        """
        model, movement = state.task.model, state.movement
        losses = np.ldexp(total.arrays["loss"].astype(np.float64), 2 * state.unit - self.ask(state).query.loss_bits)  # type: ignore[attr-defined]
        correct = [int(one) for one in total.arrays["correct"]]
        place = min(range(len(losses)), key=lambda one: _rank(state.task, correct[one], float(losses[one])))
        parameters = movement.published[len(losses) + place].astype(np.float64)
        fitness = -losses / total.num_examples
        new = Evaluation(
            parameters=state.standard.raw(model, parameters) if isinstance(model, Layered) else parameters,
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
