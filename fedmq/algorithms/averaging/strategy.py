"""The averaging strategies: each trainer trains the model on its own rows, the weighted mean is the next model.

With a rule against liars, the next model is what the rule makes of them. Knows nothing of how trainers learn. After
McMahan et al. (2017), "Communication-efficient learning of deep networks from decentralized data": with one full-batch
gradient step it is FedSGD, with more local work FedAvg.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fedmq.algorithms.averaging.robust_aggregation import RULES, check_rule
from fedmq.algorithms.base import Evaluation, Plan, Update
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED, Inbox, check_genes, check_round, check_scores
from fedmq.algorithms.robust_losses import row_loss_max
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats
from fedmq.models.networks import Linear
from fedmq.protocol.codec import check_arrays
from fedmq.protocol.messages import EvolutionLearner, GradientLearner, Train
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task import Task

ROUNDING = 1e-12  # relative: two summed losses that are nearer than this say nothing about which model is better
INITIAL_SPREAD = 0.5  # standard deviation of the first model's genes; all zero would make hidden units the same


@dataclass(frozen=True, eq=False)
class Score:
    """How one model did on one trainer's rows."""

    loss: float
    correct: int
    rows: int


@dataclass(frozen=True, eq=False)
class Scored:
    """A model that was published, with its score by each trainer."""

    rounds: tuple[int, ...]  # that published it: more than one if nobody answered
    genes: Floats  # (genes,)
    scores: Mapping[str, Score] = field(default_factory=dict)
    diversity: float = 0.0  # of the models that came back for it

    def merged(self, updates: Sequence[Update], task: Task) -> Scored:
        """The same with what these updates say of it."""
        scores = {update.trainer: _score(update, task) for update in updates if update.round in self.rounds}
        return replace(self, scores={**self.scores, **scores}) if scores else self

    def evaluation(self, members: Collection[str]) -> Evaluation | None:
        """Its sums over the members, by trainer id; None if no member has scored it.

        A member that has not counts, in the coverage, like the mean of those that have.
        """
        scores = [self.scores[name] for name in sorted(self.scores) if name in members]
        if not scores:
            return None
        loss = sum(score.loss for score in scores)
        rows = sum(score.rows for score in scores)
        fitness = [-score.loss / score.rows for score in scores]
        return Evaluation(
            genes=self.genes,
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
    """All that the strategy knows while round `round` is open."""

    task: Task
    round: int
    current: Scored  # what the open round publishes
    best: Scored | None = None  # of those that have been scored
    inbox: Inbox = field(default_factory=Inbox)
    evaluation: Evaluation | None = None


@dataclass(frozen=True)
class FedAvg:
    """Weighted averaging of models: see `fedmq.algorithms.base.Strategy` for what each method promises.

    The learner says what a trainer does between two averages. A model weighs as many rows as it was trained on,
    divided by 1 + its staleness. With a rule against liars, `robust`, each trainer counts once and the same: how many
    rows it has is only what it says.
    """

    learner: EvolutionLearner | GradientLearner
    name: str = "fedavg"
    robust: str = "none"  # or one of RULES

    def init(self, task: Task, seed: int) -> AveragingState:
        """A model of zeros for the gradient learner, a small random one for evolution."""
        genes = np.zeros(task.model.num_parameters)
        if isinstance(self.learner, EvolutionLearner):
            genes = derive_rng(seed, "averaging").normal(0.0, INITIAL_SPREAD, task.model.num_parameters)
        elif not isinstance(task.model, Linear):
            raise BadConfiguration(
                f"strategy: expected a task with a linear model for {self.name}, got {task.name}: "
                "use the strategy evolution or fedavg"
            )
        return AveragingState(task, 1, Scored((1,), genes))

    def ask(self, state: AveragingState) -> Plan:
        """The model: score it, and train it."""
        return Plan(Train(self.learner), {"model": state.current.genes})

    def tell(self, state: AveragingState, update: Update) -> AveragingState:
        """Keeps the result until the round closes."""
        check_round(update, state.round)
        if state.inbox.knows(update):
            return state
        check_arrays(
            update.arrays,
            {
                "model": ((state.task.model.num_parameters,), np.float64),
                "losses": ((1,), np.float64),
                "correct": ((1,), np.int64),
            },
        )
        check_scores(update)
        check_genes("model", update)
        return replace(state, inbox=state.inbox.add(update))

    def close(self, state: AveragingState, members: Collection[str]) -> AveragingState:
        """Averages the members' models and judges the one that they scored; without any the model stays."""
        members = frozenset(members)
        updates = [update for update in state.inbox.updates() if update.trainer in members]
        scored = replace(state.current, diversity=_diversity(updates)).merged(updates, state.task)
        best, evaluation = scored, scored.evaluation(members)
        if state.best is not None and state.best.genes is not scored.genes:
            before = state.best.merged(updates, state.task)
            if _is_better(before_evaluation := before.evaluation(members), evaluation, state.task):
                best, evaluation = before, before_evaluation
        return AveragingState(
            task=state.task,
            round=state.round + 1,
            current=_next(scored, state.round + 1, updates, self.robust),
            best=best if evaluation else state.best,
            inbox=state.inbox.emptied(state.round),
            evaluation=evaluation or state.evaluation,
        )

    def evaluation(self, state: AveragingState) -> Evaluation | None:
        """The best of the models that the trainers have scored."""
        return state.evaluation


def fedavg(robust: str = "none") -> FedAvg:
    """Combines models that trainers evolved locally."""
    return FedAvg(EvolutionLearner(), "fedavg", check_rule(robust))


def fedsgd(robust: str = "none") -> FedAvg:
    """Combines models after one gradient step each: their mean is a gradient step on all rows together."""
    return FedAvg(GradientLearner(steps=1), "fedsgd", check_rule(robust))


def _next(scored: Scored, number: int, updates: Sequence[Update], robust: str) -> Scored:
    """What round `number` publishes: one model made of these, or the same again."""
    if not updates:
        return replace(scored, rounds=(*scored.rounds, number)[-ROUNDS_REMEMBERED:])
    if robust == "none":
        return Scored((number,), _mean(updates))
    newest = {update.trainer: update.arrays["model"] for update in updates}  # a late one gives nobody a second vote
    return Scored((number,), RULES[robust](np.array([newest[name] for name in sorted(newest)]), scored.genes))


def _is_better(old: Evaluation | None, new: Evaluation | None, task: Task) -> bool:
    """Whether the older model is still the one to deploy: it must be better by more than rounding errors."""
    if old is None or new is None:
        return new is None

    def key(evaluation: Evaluation, loss: float) -> tuple[float, int, float]:
        return (-evaluation.coverage, -evaluation.correct if task.metric == "accuracy" else 0, loss)

    return key(old, old.loss) < key(new, new.loss * (1.0 - ROUNDING))


def _mean(updates: Sequence[Update]) -> Floats:
    """The models' mean (genes,), weighted by rows / (1 + staleness), summed in float64 in the order of the updates."""
    weights = [update.num_examples / (1 + update.staleness) for update in updates]
    total = np.zeros_like(updates[0].arrays["model"], dtype=np.float64)
    for update, weight in zip(updates, weights, strict=True):
        total += weight * update.arrays["model"]
    return total / sum(weights)


def _score(update: Update, task: Task) -> Score:
    loss = min(float(update.arrays["losses"][0]), row_loss_max(task) * update.num_examples)
    return Score(loss, int(update.arrays["correct"][0]), update.num_examples)


def _diversity(updates: Sequence[Update]) -> float:
    """The mean standard deviation of a gene over the models."""
    if len(updates) < 2:
        return 0.0
    return float(np.array([update.arrays["model"] for update in updates]).std(axis=0).mean())
