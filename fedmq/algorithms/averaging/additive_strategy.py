"""`averaging` by sums: FedSGD, FedAvg and SCAFFOLD need only the total of what the trainers' models have moved.

Each trainer sends its rows times the change of its model, rounded once to integers, so the sum over trainers has no
order. FedSGD's answer is the gradient over the rows, which is exact for any split of them. Rows of any scale are
standardized by the survey of their columns: the model that trainers get is for standardized rows, the one to deploy for
rows as they are.

Late answers: FedAvg and SCAFFOLD add the change to the next model, with 1 / (1 + staleness) of its rows. FedSGD drops
the gradients of earlier models. All of them complete the score of the model that they were asked about.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.algorithms.averaging.parameters import AveragingParameters
from fedmq.algorithms.averaging.query import CHANGE_BITS, Descend, SumGradient
from fedmq.algorithms.averaging.server_optimizer import ServerOptimizer
from fedmq.algorithms.base import CONTROL, Evaluation, Plan, Total
from fedmq.algorithms.evaluation.row_scores import evaluation_of_rows, loss_unit
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED
from fedmq.algorithms.standardization import chosen_network, standard_arrays
from fedmq.algorithms.statistics.survey import Survey, standard_of
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers
from fedmq.models.exact_gradient import gradient_bits
from fedmq.models.layers import initial_parameters, layered
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.models.standardized import Standard
from fedmq.models.torch_model import Torch
from fedmq.models.trained_model import TrainedModel
from fedmq.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Counted:
    """What a closed round has added so far, so that late answers add the rest."""

    arrays: Mapping[str, npt.NDArray[Any]]
    rows: int


@dataclass(frozen=True, eq=False)
class DescentState:
    """The state while round `round` is open."""

    task: Task
    standard: Standard  # by which rows are standardized
    unit: int  # of squared errors: see the queries
    model: Floats  # that the open round publishes, for standardized rows
    optimizer: ServerOptimizer
    control: Integers  # the sum of the trainers' control variates, each times its rows; (0,) without SCAFFOLD
    round: int = 1
    rows: float = 1.0  # of all members, as far as their answers tell
    counted: dict[int, Counted] = field(default_factory=dict)  # rounds that late answers may add to
    unscored: dict[int, Floats] = field(default_factory=dict)  # models by round whose scores are all to come
    best: Evaluation | None = None
    best_round: int = 0


class _Late(NamedTuple):
    """What arrived too late for its round."""

    arrays: Mapping[str, npt.NDArray[Any]]
    rows: int
    staleness: int


class AdditiveAveraging:
    """The strategy of `averaging` without a robust rule: see `fedmq.algorithms.base.AdditiveAlgorithm`."""

    name = "averaging"
    keeps_survey = True
    Parameters = AveragingParameters

    def __init__(self, parameters: AveragingParameters | None = None) -> None:
        self.parameters = chosen = parameters or AveragingParameters()
        scaffold, components = chosen.method == "scaffold", chosen.components
        self._query = (
            SumGradient(components=components)
            if chosen.method == "fedsgd"
            else Descend(learner=chosen.gradient, scaffold=scaffold, components=components)
        )

    @property
    def needs_survey(self) -> bool:
        """Whether rows are standardized."""
        return self.parameters.standardize

    @property
    def components(self) -> int:
        """See `Additive`."""
        return self.parameters.components

    def init(self, task: Task, seed: int, survey: Survey | None = None) -> DescentState:
        """Return random first weights; zeros for a model of one layer."""
        model = with_gradients(task)
        if isinstance(model, LogLinear) and self.parameters.method == "fedsgd":
            raise BadConfiguration("algorithm averaging: expected a model MLP or Linear for method=fedsgd: use newton")
        network = chosen_network(model, self.components, self.name)
        size = network.num_parameters
        control = np.zeros(size if self.parameters.method == "scaffold" else 0, np.int64)
        standard, unit = Standard(np.zeros(model.inputs), np.ones(model.inputs)), 0
        if survey is not None:
            standard, unit = standard_of(task, survey, self.components), loss_unit(task, survey.features)
        first, optimizer = (
            initial_parameters(layered(network, self.name), seed, "averaging"),
            ServerOptimizer.begin(self.parameters, size),
        )
        return DescentState(task, standard, unit, first, optimizer, control)

    def starting_at(self, state: DescentState, trained: TrainedModel) -> DescentState:
        """Return the state of round 1 that publishes an earlier model."""
        return replace(state, model=state.standard.standardized(with_gradients(state.task), trained.parameters))

    def ask(self, state: DescentState) -> Plan:
        """Publish the model, and the mean control variate of all rows."""
        arrays: dict[str, Floats | Integers] = {"model": state.model, **standard_arrays(state.standard)}
        if state.control.size:
            arrays[CONTROL] = state.control.astype(np.float64) * (2.0**-CHANGE_BITS / state.rows)
        return Plan(msgspec.structs.replace(self._query, unit=state.unit), arrays)

    def close(self, state: DescentState, total: Total | None, late: Mapping[int, Total]) -> DescentState:
        """Move the model by the mean change, and rate the one that was scored."""
        state = self._rated(state, total, late)
        arrived = list(self._arrived(state, late))
        if total is not None and total.coverage > 0.0:
            state = replace(state, rows=total.num_examples / total.coverage)
        oldest = state.round + 1 - ROUNDS_REMEMBERED
        counted = {number: one for number, one in state.counted.items() if number > oldest}
        counted |= {number: Counted(one.arrays, one.num_examples) for number, one in late.items() if number in counted}
        if total is not None and (total.coverage < 1.0 or state.control.size):
            counted[state.round] = Counted(_moves(total.arrays), total.num_examples)
        elif total is None:
            counted[state.round] = Counted({}, 0)
        state = replace(state, round=state.round + 1, counted={} if self._is_exact else counted)
        if total is not None:
            arrived.append(_Late(total.arrays, total.num_examples, 0))
        if not arrived:
            return state
        if state.control.size:
            state = replace(state, control=state.control + sum(one.arrays[CONTROL] for one in arrived))
        optimizer, moved = state.optimizer.step(self.parameters, self._mean_change(state, arrived))
        return replace(state, optimizer=optimizer, model=state.model + moved)

    def evaluation(self, state: DescentState) -> Evaluation | None:
        """Return the best model: see `_is_better`."""
        return state.best

    @property
    def _is_exact(self) -> bool:
        return isinstance(self._query, SumGradient)

    def _arrived(self, state: DescentState, late: Mapping[int, Total]) -> Iterator[_Late]:
        """Yield what late answers add to earlier rounds."""
        for number in sorted(late):
            if number in state.counted and not self._is_exact:
                before, now = state.counted[number], late[number]
                arrays = {name: now.arrays[name] - before.arrays.get(name, 0) for name in _moves(now.arrays)}
                yield _Late(arrays, now.num_examples - before.rows, state.round - number)

    def _mean_change(self, state: DescentState, arrived: list[_Late]) -> Floats:
        """Return the mean over rows; a row of a late answer counts 1 / (1 + staleness)."""
        if self._is_exact:
            (one,), network = arrived, state.standard.network(with_gradients(state.task))
            assert isinstance(network, MLP | Linear)
            gradient = one.arrays["gradient"] * 2.0 ** -gradient_bits(network) / one.rows
            return -self.parameters.learning_rate * (gradient + self.parameters.l2 * state.model)
        change, rows = np.zeros(len(state.model)), 0.0
        for one in arrived:
            change += one.arrays["change"] / (1 + one.staleness)
            rows += one.rows / (1 + one.staleness)
        return change * 2.0**-CHANGE_BITS / rows

    def _rated(self, state: DescentState, total: Total | None, late: Mapping[int, Total]) -> DescentState:
        """Keep the newest scored model if it is better, and what late answers say about the one that is kept."""
        if state.best is not None and state.best_round in late:
            state = replace(state, best=self._evaluation(state, state.best.parameters, late[state.best_round]))
        totals = dict(late) if total is None else {**late, state.round: total}
        published = {**state.unscored, state.round: state.model}
        newest = max((number for number in published if number in totals), default=0)
        oldest = max(newest, state.round + 1 - ROUNDS_REMEMBERED)
        state = replace(state, unscored={number: one for number, one in published.items() if number > oldest})
        if not newest:
            return state
        parameters = state.standard.raw(with_gradients(state.task), published[newest])
        found = self._evaluation(state, parameters, totals[newest])
        if state.best is not None and not _is_better(found, state.best, state.task):
            return state
        return replace(state, best=found, best_round=newest)

    def _evaluation(self, state: DescentState, parameters: Floats, total: Total) -> Evaluation:
        bits = total.fraction_bits - 2 * state.unit
        if self._is_exact:
            return evaluation_of_rows(parameters, total, -bits)
        return replace(total, fraction_bits=bits).evaluation(parameters)


def with_gradients(task: Task) -> MLP | Linear | LogLinear:
    """Return the model of a task if back-propagation has its gradient.

    Raises:
        BadConfiguration: it is another one.
    """
    if isinstance(task.model, MLP | Linear | LogLinear):
        return task.model
    if isinstance(task.model, Torch):
        raise BadConfiguration(
            f"algorithm averaging: expected learner=torch for the PyTorch model of task {task.name}, got gradient"
        )
    raise BadConfiguration(
        f"algorithm averaging: expected a model MLP, Linear or LogLinear for learner=gradient, got "
        f"{type(task.model).__name__} of task {task.name}: use learner=evolution, or another algorithm"
    )


def _moves(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an answer that move the model."""
    return {name: array for name, array in arrays.items() if name in ("change", CONTROL)}


def _is_better(new: Evaluation, old: Evaluation, task: Task) -> bool:
    """Return whether a newer model is deployed: it scores no worse, or other trainers have scored it."""
    if new.coverage != old.coverage or new.rows != old.rows:
        return True  # scores of other rows do not compare
    if task.metric == "accuracy" and new.correct != old.correct:
        return new.correct > old.correct
    return new.loss <= old.loss
