"""Federated averaging of models: each trainer trains the model on its own rows, a mean or a rule makes the next one.

After McMahan et al. (2017), "Communication-efficient learning of deep networks from decentralized data". This strategy
needs each answer: for a robust rule, and for models that a genetic algorithm has trained. Without these, sums do:
`fedmq.algorithms.averaging.additive_strategy`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedmq.algorithms.averaging.additive_strategy import AdditiveAveraging, with_gradients
from fedmq.algorithms.averaging.parameters import AveragingParameters
from fedmq.algorithms.averaging.query import Train, dtype_of
from fedmq.algorithms.averaging.robust_aggregation import RULES
from fedmq.algorithms.base import Evaluation, Plan, Update, row_loss_max
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED, Inbox, check_answer, check_round
from fedmq.models.arrays import Floats
from fedmq.models.layers import initial_parameters
from fedmq.models.torch_model import Torch
from fedmq.models.torch_modules import initial_module_parameters
from fedmq.models.trained_model import TrainedModel
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Task

ROUNDING = 1e-12  # relative: two summed losses nearer than this are equal
OWN_SPREAD = 0.1  # the same for a model that code of the sites trains
INITIAL_SPREAD = 0.5  # standard deviation of the first model's parameters; zeros would make hidden units the same


@dataclass(frozen=True, eq=False)
class RowsScore:
    """The score of one model on one trainer's rows."""

    loss: float
    correct: int
    rows: int


@dataclass(frozen=True, eq=False)
class PublishedModel:
    """A model that was published, with its score by each trainer."""

    rounds: tuple[int, ...]  # that published it: more than one if no trainer answered
    parameters: Floats  # (parameters,)
    scores: Mapping[str, RowsScore] = field(default_factory=dict)
    diversity: float = 0.0  # of the models that trainers made of it

    def merged(self, updates: Sequence[Update], task: Task) -> PublishedModel:
        """Return the model with the scores in these updates."""
        scores = {update.trainer: _score(update, task) for update in updates if update.round in self.rounds}
        return replace(self, scores={**self.scores, **scores}) if scores else self

    def evaluation(self, members: Collection[str]) -> Evaluation | None:
        """Return its sums over the members, in the order of their names; None if no member has scored it.

        In the coverage, a member without a score counts like the mean of the others.
        """
        scores = [self.scores[name] for name in sorted(self.scores) if name in members]
        if not scores:
            return None
        loss = math.fsum(score.loss for score in scores)
        rows = sum(score.rows for score in scores)
        fitness = [-score.loss / score.rows for score in scores]
        return Evaluation(
            parameters=self.parameters,
            loss=loss,
            correct=sum(score.correct for score in scores),
            rows=rows,
            coverage=len(scores) / len(members),
            fitness_best=max(fitness),
            fitness_mean=-loss / rows,
            fitness_worst=min(fitness),
            diversity=self.diversity,
        )


@dataclass(frozen=True, eq=False)
class AveragingState:
    """The state while round `round` is open."""

    task: Task
    round: int
    current: PublishedModel  # what the open round publishes
    best: PublishedModel | None = None  # of those that have been scored
    unscored: tuple[PublishedModel, ...] = ()  # newer ones whose scores are all to come: answers were late
    inbox: Inbox = field(default_factory=Inbox)
    evaluation: Evaluation | None = None


class Averaging:
    """The strategy of `averaging`: see `fedmq.algorithms.base.Strategy` for each method.

    A model weighs as many rows as it was trained on, divided by 1 + its staleness. With a robust rule each trainer
    counts once and the same, because it could claim any number of rows.
    """

    name = "averaging"
    additive = False
    Parameters = AveragingParameters

    def __init__(self, parameters: AveragingParameters | None = None) -> None:
        self.parameters = chosen = parameters or AveragingParameters()
        self._query = Train(chosen.local)

    @classmethod
    def for_parameters(cls, parameters: AveragingParameters) -> Averaging | AdditiveAveraging:
        """Return the strategy that needs only sums, if the parameters allow it."""
        return AdditiveAveraging(parameters) if parameters.is_additive else cls(parameters)

    def init(self, task: Task, seed: int) -> AveragingState:
        """Return a small random model."""
        if isinstance(task.model, Torch):
            module = initial_module_parameters(task.model, seed)
            return AveragingState(task, 1, PublishedModel((1,), _as_sent(module, task)))
        if self.parameters.learner == "evolution":
            parameters = derive_rng(seed, "averaging").normal(0.0, INITIAL_SPREAD, task.model.num_parameters)
        elif self.parameters.learner == "own":
            parameters = derive_rng(seed, "averaging").normal(0.0, OWN_SPREAD, task.model.num_parameters)
        else:
            parameters = initial_parameters(with_gradients(task), seed, "averaging")
        return AveragingState(task, 1, PublishedModel((1,), parameters))

    def starting_at(self, state: AveragingState, trained: TrainedModel) -> AveragingState:
        """Return the state of round 1 that publishes an earlier model."""
        return replace(state, current=PublishedModel((1,), trained.parameters))

    def ask(self, state: AveragingState) -> Plan:
        """Publish the model: score it, and train it."""
        return Plan(self._query, {"model": state.current.parameters.astype(dtype_of(state.task))})

    def tell(self, state: AveragingState, update: Update) -> AveragingState:
        check_round(update, state.round)
        if state.inbox.knows(update):
            return state
        check_answer(update, self._query.answer(state.task, {}, update.num_examples))
        return replace(state, inbox=state.inbox.add(update))

    def close(self, state: AveragingState, members: Collection[str]) -> AveragingState:
        """Average the members' models and rate the newest one that they scored; without any the model stays."""
        members = frozenset(members)
        updates = [update for update in state.inbox.updates() if update.trainer in members]
        current = replace(state.current, diversity=_diversity(updates))
        published = [model.merged(updates, state.task) for model in (*state.unscored, current)]
        current = published[-1]
        newest = max((place for place, one in enumerate(published) if one.evaluation(members)), default=None)
        best = scored = current if newest is None else published[newest]
        evaluation = scored.evaluation(members)
        if state.best is not None and state.best.parameters is not scored.parameters:
            before = state.best.merged(updates, state.task)
            if evaluation is None or _is_better(before, scored, members, state.task):
                best, evaluation = before, before.evaluation(members)
        return AveragingState(
            task=state.task,
            round=state.round + 1,
            current=_next(current, state.round + 1, updates, self.parameters.rule, state.task),
            best=best if evaluation else state.best,
            unscored=_unscored(
                published if newest is None else published[newest + 1 :], state.round, again=not updates
            ),
            inbox=state.inbox.emptied(state.round),
            evaluation=evaluation or state.evaluation,
        )

    def evaluation(self, state: AveragingState) -> Evaluation | None:
        """Return the best of the models that trainers have scored."""
        return state.evaluation


def _unscored(published: Sequence[PublishedModel], number: int, *, again: bool) -> tuple[PublishedModel, ...]:
    """Return the models whose scores may arrive after round `number`; the last one may be published `again`."""
    waiting = [one for one in published if one.rounds[-1] > number + 1 - ROUNDS_REMEMBERED]
    return tuple(waiting[:-1] if again else waiting)


def _next(scored: PublishedModel, number: int, updates: Sequence[Update], rule: str, task: Task) -> PublishedModel:
    """Return what round `number` publishes: one model made of these, or the same again."""
    if not updates:
        return replace(scored, rounds=(*scored.rounds, number)[-ROUNDS_REMEMBERED:])
    if rule == "none":
        return PublishedModel((number,), _as_sent(_mean(updates), task))
    newest = {update.trainer: update.arrays["model"] for update in updates}  # a late one is no second vote
    models = np.array([newest[name] for name in sorted(newest)], np.float64)
    return PublishedModel((number,), _as_sent(RULES[rule](models, scored.parameters), task))


def _as_sent(parameters: Floats, task: Task) -> Floats:
    """Return the parameters as trainers get them, in float64: what they score is what the run keeps."""
    return parameters.astype(dtype_of(task)).astype(np.float64)


def _is_better(old: PublishedModel, new: PublishedModel, members: frozenset[str], task: Task) -> bool:
    """Return whether the older model stays deployed: on the rows of the members that have scored both.

    It must be better by more than rounding errors. If no member has scored both, the newer one is deployed: in rounds
    that ask some of the trainers, two models are mostly scored by others.
    """
    both = old.scores.keys() & new.scores.keys() & members
    before, after = old.evaluation(both), new.evaluation(both)
    if before is None or after is None:
        return False

    def key(evaluation: Evaluation, loss: float) -> tuple[int, float]:
        return (-evaluation.correct if task.metric == "accuracy" else 0, loss)

    return key(before, before.loss) < key(after, after.loss * (1.0 - ROUNDING))


def _mean(updates: Sequence[Update]) -> Floats:
    """Return the mean (parameters,), weighted by rows / (1 + staleness), summed in float64 in the updates' order."""
    weights = [update.num_examples / (1 + update.staleness) for update in updates]
    total = np.zeros_like(updates[0].arrays["model"], dtype=np.float64)
    for update, weight in zip(updates, weights, strict=True):
        total += weight * update.arrays["model"].astype(np.float64)
    return total / sum(weights)


def _score(update: Update, task: Task) -> RowsScore:
    loss = min(float(update.arrays["losses"][0]), row_loss_max(task) * update.num_examples)
    return RowsScore(loss, int(update.arrays["correct"][0]), update.num_examples)


def _diversity(updates: Sequence[Update]) -> float:
    """Return the mean standard deviation of a parameter over the models."""
    if len(updates) < 2:
        return 0.0
    return float(np.array([update.arrays["model"] for update in updates]).std(axis=0).mean())
