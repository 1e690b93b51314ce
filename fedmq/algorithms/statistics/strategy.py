"""Statistics over the rows of all trainers, in three rounds: spread, moments, histograms.

The totals are integers, so they are the same for any split and order of the rows. The model is the constant one, which
any other model should beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import Evaluation, Plan, Total
from fedmq.algorithms.statistics.columns import ColumnMoments, ColumnSurvey
from fedmq.algorithms.statistics.constant_model import constant_evaluation
from fedmq.algorithms.statistics.query import BUCKETS_MAX, Histograms
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers
from fedmq.models.networks import Code
from fedmq.tasks.task import Task

RANGE = 4.0  # deviations to both sides of the mean that the histograms divide


class StatisticsParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `statistics`."""

    buckets: Annotated[int, Meta(ge=2, le=BUCKETS_MAX)] = 64  # of each histogram


@dataclass(frozen=True, eq=False)
class Statistics:
    """What `statistics` found, by column: the inputs, and last the target if it is a value.

    `lower` and `upper` bound the values of each bucket of `histograms` (columns, buckets).
    """

    moments: ColumnMoments
    lower: Floats
    upper: Floats
    histograms: Integers

    @property
    def missing(self) -> Integers:
        """The number of missing values, (columns,)."""
        return self.moments.num_examples - self.moments.counts

    def smallest(self) -> tuple[Floats, Floats]:
        """Return the bounds of the lowest bucket with a value: the minimum is between them."""
        first = (self.histograms > 0).argmax(axis=1)
        return self._bounds(first)

    def largest(self) -> tuple[Floats, Floats]:
        """Return the bounds of the highest bucket with a value: the maximum is between them."""
        last = self.histograms.shape[1] - 1 - (self.histograms[:, ::-1] > 0).argmax(axis=1)
        return self._bounds(last)

    def quantile(self, share: float) -> Floats:
        """Return an approximate quantile of each column, (columns,): linear within its bucket."""
        quantiles = []
        for counts, lower, upper in zip(self.histograms, self.lower, self.upper, strict=True):
            below = np.concatenate([[0], np.cumsum(counts)])
            wanted = share * float(below[-1])
            bucket = int(np.clip(np.searchsorted(below[1:], wanted, side="left"), 0, len(counts) - 1))
            part = (wanted - float(below[bucket])) / max(1.0, float(counts[bucket]))
            quantiles.append(float(lower[bucket] + (upper[bucket] - lower[bucket]) * part))
        return np.array(quantiles)

    def _bounds(self, buckets: Integers) -> tuple[Floats, Floats]:
        columns = np.arange(len(buckets))
        return self.lower[columns, buckets], self.upper[columns, buckets]


@dataclass(frozen=True, eq=False)
class StatisticsState:
    """The state while a round is open."""

    task: Task
    survey: ColumnSurvey
    found: Statistics | None = None  # of the newest complete survey
    complete: bool = False  # the survey is the newest, and of every member
    evaluation: Evaluation | None = None


class StatisticsAlgorithm:
    """The strategy of `statistics`: see `fedmq.algorithms.base.AdditiveAlgorithm`.

    When all is known it asks for the histograms again, and surveys anew if the rows have changed.
    """

    name = "statistics"
    Parameters = StatisticsParameters

    def __init__(self, parameters: StatisticsParameters) -> None:
        self.parameters = parameters

    def init(self, task: Task, _seed: int) -> StatisticsState:
        if isinstance(task.model, Code):
            raise BadConfiguration(
                f"algorithm statistics: expected a task with a network, got {task.name}, whose model is code: "
                "use the algorithm evolution"
            )
        return StatisticsState(task, ColumnSurvey.of(task))

    def ask(self, state: StatisticsState) -> Plan:
        """Ask for the spread, for the moments, then for the histograms."""
        if state.survey.moments is None:
            return state.survey.plan()
        return Plan(Histograms(), {"edges": self._edges(state.survey)})

    def close(self, state: StatisticsState, total: Total | None, _late: Mapping[int, Total]) -> StatisticsState:
        if total is None:
            return state
        if state.survey.moments is None:
            survey = state.survey.with_total(total)
            moments = survey.moments
            evaluation = constant_evaluation(state.task, moments) if moments else state.evaluation
            return replace(state, survey=survey, evaluation=evaluation)
        moments = state.survey.moments
        if total.num_examples != moments.num_examples or moments.coverage < total.coverage:
            return replace(state, survey=ColumnSurvey.of(state.task), complete=False)
        edges = self._edges(state.survey)
        low, high = (bound[:, None] for bound in state.survey.bounds())
        found = Statistics(
            moments,
            np.concatenate([np.minimum(low, edges[:, :1]), edges], axis=1),
            np.concatenate([edges, np.maximum(high, edges[:, -1:])], axis=1),
            total.arrays["histograms"],
        )
        return replace(state, found=found, complete=moments.coverage >= 1.0)

    def evaluation(self, state: StatisticsState) -> Evaluation | None:
        """Return the constant model."""
        return state.evaluation

    def result(self, state: StatisticsState) -> Statistics | None:
        """Return what was found; None before the first complete survey."""
        return state.found

    def finished(self, state: StatisticsState) -> bool:
        """Return whether the histograms of all rows are known."""
        return state.complete

    def _edges(self, survey: ColumnSurvey) -> Floats:
        """Return the edges (columns, buckets - 1): even steps over the part of ±RANGE deviations that has values."""
        moments = survey.moments
        assert moments is not None
        low, high = survey.bounds()
        reach = moments.deviations * RANGE
        low, high = np.maximum(low, moments.means - reach), np.minimum(high, moments.means + reach)
        steps = np.arange(1.0, self.parameters.buckets)
        return low[:, None] + ((high - low) * (1.0 / self.parameters.buckets))[:, None] * steps
