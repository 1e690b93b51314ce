"""Private runs: an algorithm's questions with noise, then one question about the figures of its model.

    bounds of the schema  ->  features        no survey: it would cost privacy
    questions             ->  model           each with the same part of the run's rho
    one question          ->  figures         with FIGURES_SHARE of it: on held-out rows if there are some

The number of questions is known when the run begins, and with it the noise of each. A total with the answers of too few
trainers has too little noise, so it is not used; its question is lost. Late answers are not used either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass, replace
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np

from fedmq.algorithms.additive import Additive, RoundSum
from fedmq.algorithms.base import Evaluation, Plan, Total, check_down, failure_of, is_prepared
from fedmq.algorithms.evaluation.figures import Measured, Metrics
from fedmq.algorithms.evaluation.private_query import FRACTION_BITS, PrivateFigures, PrivateFitted
from fedmq.algorithms.findings import Findings
from fedmq.algorithms.private.columns import preparation_arrays, preparation_of, target_unit
from fedmq.algorithms.private.query import Noise
from fedmq.algorithms.statistics.query import num_classes
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.arrays import Floats
from fedmq.protocol.run_config import Privacy
from fedmq.tasks.task import Task

State = TypeVar("State")


class PrivateAlgorithm(Protocol[State]):
    """An algorithm of private runs. Its class has a `name` and `Parameters`, and is called with some.

    Its questions are `fedmq.algorithms.private.query.PrivateQuery`. `init` gets the noise of each of them.
    """

    name: str

    def questions(self, task: Task, rounds: int) -> int:
        """Return how many questions it asks, at most `rounds`."""

    def init(self, task: Task, seed: int, noise: Noise) -> State: ...

    def ask(self, state: State) -> Plan: ...

    def close(self, state: State, total: Total, late: Mapping[int, Total]) -> State:
        """Return the state after an answered question; there are no late answers."""

    def model_parameters(self, state: State) -> Floats:
        """Return the parameters (num_parameters,) of the task's model."""


@dataclass(frozen=True, eq=False)
class _Progress:
    """The state while a question is open, without that of the algorithm."""

    task: Task
    asked: int = 0  # questions that are answered or lost
    lost: int = 0
    noise: float | None = None  # the deviation of the accuracy, or of the mean squared error in units, by noise alone
    evaluation: Evaluation | None = None


class _Stages:
    """The questions of a run, one after the other; `Additive` sums the answers."""

    def __init__(self, algorithm: PrivateAlgorithm[Any], privacy: Privacy) -> None:
        self.algorithm, self.name, self.privacy = algorithm, algorithm.name, privacy

    def init(self, task: Task, seed: int) -> Any:
        noise = Noise(self.privacy.rho_of_question, self.privacy.trainers)
        preparation_of(task)
        target_unit(task)
        inner = self.algorithm.init(task, seed, noise)
        kind = make_dataclass(
            f"Private{type(inner).__name__}",
            [("inner", type(inner))],
            bases=(_Progress,),
            frozen=True,
            eq=False,
            kw_only=True,
        )
        state = kind(task=task, inner=inner)
        last = self.ask(replace(state, asked=self.privacy.questions))
        try:
            check_down(last.query, task, last.arrays)
        except Rejected as refused:
            raise BadConfiguration(f"--epsilon: {refused.detail}") from refused
        return state

    def ask(self, state: Any) -> Plan:
        plan = self._asked(state)
        return replace(plan, query=msgspec.structs.replace(plan.query, question=state.asked + 1))

    def _asked(self, state: Any) -> Plan:
        if state.asked < self.privacy.questions:
            return self.algorithm.ask(state.inner)
        task: Task = state.task
        center, unit = target_unit(task)
        kind = PrivateFigures if task.holdout else PrivateFitted
        noise = Noise(self.privacy.rho_of_figures, self.privacy.trainers)
        parameters = self.algorithm.model_parameters(state.inner)
        return Plan(kind(noise=noise, center=center, unit=unit), {"parameters": parameters})

    def close(self, state: Any, total: Total | None, _late: Mapping[int, Total]) -> Any:
        enough = total is not None and total.trainers >= self.privacy.trainers
        after = replace(state, asked=state.asked + 1, lost=state.lost + (not enough))
        if state.asked > self.privacy.questions:
            return state  # all is said
        if state.asked == self.privacy.questions:
            return self._measured(state, after, total if enough else None)
        if total is None or not enough:
            return after
        return replace(after, inner=self.algorithm.close(state.inner, total, {}))

    def evaluation(self, state: Any) -> Evaluation | None:
        evaluation: Evaluation | None = state.evaluation
        return evaluation

    def finished(self, state: Any) -> bool:
        return state.evaluation is not None

    def failure(self, state: Any) -> str:
        """Return why the run has no model: all questions are lost. A question is asked once, so none is asked again."""
        if not state.lost or min(state.asked, state.lost) < self.privacy.questions:
            return ""
        return (
            f"--epsilon: expected answers of {self.privacy.trainers} trainers or more to a question, got fewer to all "
            f"{self.privacy.questions}, and each is asked once: start a new run, which spends privacy anew, with a "
            "lower --quorum or --min-trainers"
        )

    def findings(self, state: Any) -> Findings:
        name = "noise of accuracy" if num_classes(state.task) else "noise of squared error"
        return Findings(figures={"questions": state.asked, "lost questions": state.lost, name: state.noise})

    def _measured(self, state: Any, after: Any, total: Total | None) -> Any:
        """Return the state with the evaluation of the model; without figures, if their question is lost."""
        task: Task = state.task
        metrics = Metrics(rows=1, trainers=0, coverage=0.0) if total is None else _metrics(task, total)
        fitness = -metrics.loss / max(1, metrics.rows)
        evaluation = Evaluation(
            parameters=self.algorithm.model_parameters(state.inner),
            loss=metrics.loss,
            correct=metrics.correct,
            rows=metrics.rows,
            coverage=metrics.coverage,
            fitness_best=fitness,
            fitness_mean=fitness,
            fitness_worst=fitness,
            diversity=0.0,
            preparation=preparation_of(task),
            measured=Measured(held_out=metrics) if task.holdout else None,
        )
        noise = None if total is None else _noise(task, self.ask(state), total)
        return replace(after, evaluation=evaluation, noise=noise)


class Private(Additive):
    """A private algorithm as a strategy; see `fedmq.algorithms.base.Strategy` for each method."""

    def __init__(self, algorithm: PrivateAlgorithm[Any], parameters: Any, privacy: Privacy) -> None:
        super().__init__(_Stages(algorithm, privacy), algorithm.name, parameters)

    def ask(self, state: Any) -> Plan:
        """Ask what the stage needs, with what prepares the columns."""
        plan = self.algorithm.ask(state.inner)
        if not is_prepared(plan.query, state.task):
            return plan
        return replace(plan, arrays={**plan.arrays, **preparation_arrays(preparation_of(state.task))})

    def failure(self, state: Any) -> str:
        """See `fedmq.algorithms.base.failure_of`."""
        return failure_of(self.algorithm, state.inner)

    def _opened(self, state: Any) -> Any:
        empty = RoundSum.empty(self.name, self.algorithm.ask(state.inner), state.task)
        return replace(state, sums={**state.sums, state.round: empty})


def _noise(task: Task, plan: Plan, total: Total) -> float:
    """Return the deviation that noise alone gives to the accuracy, or to the mean squared error in units."""
    assert isinstance(plan.query, PrivateFigures)
    deviations, rows = plan.query.deviations(task, plan.shapes, total.trainers), max(1, total.num_examples)
    if "confusion" in deviations:  # right rows are the sum of its diagonal
        return math.ldexp(deviations["confusion"] * math.sqrt(num_classes(task)), -FRACTION_BITS) / rows
    return math.ldexp(deviations["errors"], -FRACTION_BITS) / rows


def _metrics(task: Task, total: Total) -> Metrics:
    """Return the figures of a total with noise: no count is below 0, and no share above 1.

    A summed loss or squared error of 0 or less is noise alone: its mean is None.
    """
    rows, arrays = max(1, total.num_examples), total.arrays
    about = Metrics(rows=rows, trainers=total.trainers, coverage=total.coverage)
    if "confusion" in arrays:
        counts = np.ldexp(arrays["confusion"].astype(np.float64), -FRACTION_BITS)
        confusion = np.maximum(np.rint(counts), 0.0).astype(np.int64)
        correct = min(rows, int(np.diag(confusion).sum()))
        loss = max(0.0, math.ldexp(float(arrays["loss"][0]), -FRACTION_BITS))
        return msgspec.structs.replace(
            about,
            loss=loss,
            correct=correct,
            accuracy=correct / rows,
            log_loss=loss / rows if loss > 0.0 else None,
            confusion=tuple(tuple(row) for row in confusion.tolist()),
        )
    squared, value, square = np.ldexp(arrays["errors"].astype(np.float64), -FRACTION_BITS).tolist()
    unit, squared = target_unit(task).unit, max(0.0, squared)
    spread = square - value * value / rows
    return msgspec.structs.replace(
        about,
        loss=squared * unit * unit,
        rmse=math.sqrt(squared / rows) * unit * task.output_scale if squared > 0.0 else None,
        r2=1.0 - squared / spread if spread > 0.0 else None,
    )
