"""Statistics over the rows of all trainers: the survey that other algorithms begin with is all there is to do.

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
from fedmq.algorithms.findings import Findings, feature_names, output_names
from fedmq.algorithms.ridge.fit import correlations
from fedmq.algorithms.ridge.query import Gram
from fedmq.algorithms.standardization import REACH_MIN, needed_reach, part_bits_for, rows_max_for
from fedmq.algorithms.statistics.constant_model import constant_evaluation
from fedmq.algorithms.statistics.query import BUCKETS_MAX, Spread, num_columns, num_standardized
from fedmq.algorithms.statistics.survey import Survey
from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats, Integers
from fedmq.models.exact_outputs import one_layer
from fedmq.models.networks import Code
from fedmq.tasks.task import Task


class StatisticsParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `statistics`."""

    buckets: Annotated[int, Meta(ge=2, le=BUCKETS_MAX)] = 64  # of each histogram, at least
    correlation: bool = False  # of each pair of features, and of each with the target


@dataclass(frozen=True, eq=False)
class StatisticsState:
    """The state while a round is open."""

    task: Task
    survey: Survey
    reach: Integers  # (inputs and target,) of the products
    correlations: Floats | None = None


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
        if self.parameters.correlation:
            one_layer(task.model, "parameter correlation")
        return StatisticsState(task, survey, np.full(num_standardized(task), REACH_MIN, np.int64))

    def ask(self, state: StatisticsState) -> Plan:
        if self.parameters.correlation and state.correlations is None:
            moments = state.survey.features
            arrays = {"shift": moments.means, "deviation": moments.deviations, "reach": state.reach}
            return Plan(_products(moments.num_examples), arrays)
        return Plan(Spread(columns=num_columns(state.task)), {})

    def close(self, state: StatisticsState, total: Total | None, _late: Mapping[int, Total]) -> StatisticsState:
        if total is None or "sums" not in total.arrays:
            return state
        needed = needed_reach(total.arrays["reach"])
        if (needed > state.reach).any():  # ask again, with room for the largest values
            return replace(state, reach=np.maximum(needed, state.reach))
        if total.coverage < state.survey.coverage:
            return state
        query = _products(state.survey.features.num_examples)
        return replace(state, correlations=correlations(total.arrays["sums"], query, state.task, state.reach))

    def evaluation(self, state: StatisticsState) -> Evaluation | None:
        """Return the constant model."""
        return constant_evaluation(state.task, state.survey.features)

    def result(self, state: StatisticsState) -> Survey:
        """Return what was found."""
        return state.survey

    def finished(self, state: StatisticsState) -> bool:
        """Return whether all rows are in it."""
        complete = state.correlations is not None or not self.parameters.correlation
        return complete and state.survey.coverage >= 1.0

    def findings(self, state: StatisticsState) -> Findings:
        """Return the correlations; the survey is added by its stage."""
        if state.correlations is None:
            return Findings()
        names = (*feature_names(state.task), *output_names(state.task))
        return Findings(correlated=names, correlations=tuple(map(tuple, state.correlations.tolist())))


def _products(num_examples: int) -> Gram:
    rows_max = rows_max_for(num_examples)
    return Gram(part_bits=part_bits_for(rows_max), rows_max=rows_max)
