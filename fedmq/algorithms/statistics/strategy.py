"""Statistics over the rows of all trainers: the survey that other algorithms begin with is all there is to do.

The totals are integers, so they are the same for any split and order of the rows. The model is the constant one, which
any other model should beat.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from fedmq.algorithms.base import Evaluation, Plan, Total
from fedmq.algorithms.statistics.constant_model import constant_evaluation
from fedmq.algorithms.statistics.query import BUCKETS_MAX, Spread, num_columns
from fedmq.algorithms.statistics.survey import Survey
from fedmq.errors import BadConfiguration
from fedmq.models.networks import Code
from fedmq.tasks.task import Task


class StatisticsParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `statistics`."""

    buckets: Annotated[int, Meta(ge=2, le=BUCKETS_MAX)] = 64  # of each histogram, at least


@dataclass(frozen=True, eq=False)
class StatisticsState:
    """The state while a round is open."""

    task: Task
    survey: Survey


class StatisticsAlgorithm:
    """The strategy of `statistics`: see `fedmq.algorithms.base.AdditiveAlgorithm`.

    When all is known it asks for the spread again, which shows whether the rows have changed.
    """

    name = "statistics"
    needs_survey = True
    uses = ("weight", "offset")  # it describes the weights, and each row counts once
    Parameters = StatisticsParameters

    def __init__(self, parameters: StatisticsParameters) -> None:
        self.parameters = parameters

    @property
    def survey_buckets(self) -> int:
        return self.parameters.buckets

    def init(self, task: Task, _seed: int, survey: Survey) -> StatisticsState:
        if isinstance(task.model, Code):
            raise BadConfiguration(
                f"algorithm statistics: expected a task with a network, got {task.name}, whose model is code: "
                "use the algorithm evolution"
            )
        return StatisticsState(task, survey)

    def ask(self, state: StatisticsState) -> Plan:
        return Plan(Spread(columns=num_columns(state.task)), {})

    def close(self, state: StatisticsState, _total: Total | None, _late: Mapping[int, Total]) -> StatisticsState:
        return state

    def evaluation(self, state: StatisticsState) -> Evaluation | None:
        """Return the constant model."""
        return constant_evaluation(state.task, state.survey.features)

    def result(self, state: StatisticsState) -> Survey:
        """Return what was found."""
        return state.survey

    def finished(self, state: StatisticsState) -> bool:
        """Return whether all rows are in it."""
        return state.survey.coverage >= 1.0
