"""Ridge regression and classification from one sum of products, after the survey of the columns.

With X the standardized inputs (or random Fourier features of them) and Y the targets, (X'X + penalty) W = X'Y is the
least-squares solution over all rows (Hoerl and Kennard, 1970). Classes are 1 or 0 targets, one against the rest. The
sums are exact, so the model is the same bits for any split of the rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import Arrays, Evaluation, Plan, Total, check_down
from fedmq.algorithms.evaluation.row_scores import score_query, scored
from fedmq.algorithms.findings import Coefficient, Findings, linear_coefficients
from fedmq.algorithms.ridge.fit import RidgeFit, fit_ridge
from fedmq.algorithms.ridge.query import Gram
from fedmq.algorithms.standardization import REACH_MIN, needed_reach, part_bits_for, rows_max_for
from fedmq.algorithms.statistics.query import num_standardized
from fedmq.algorithms.statistics.survey import Survey
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.arrays import Integers
from fedmq.models.exact_outputs import one_layer
from fedmq.models.fourier import Fourier
from fedmq.models.networks import Code, LogLinear
from fedmq.tasks.task import Task


class RidgeParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `ridge`.

    Raises:
        BadConfiguration: a penalty is to be chosen without rows to choose it by.
    """

    penalty: Annotated[float, Meta(ge=0.0)] | None = None  # for each row and unit of variance; None: by held-out rows
    holdout: Annotated[float, Meta(ge=0.0, le=0.9)] = 0.2  # share of the rows that choose the penalty

    def __post_init__(self) -> None:
        if self.penalty is None and not self.holdout:
            raise BadConfiguration("parameter holdout: expected a share above 0 to choose the penalty by, got 0")


@dataclass(frozen=True, eq=False)
class RidgeState:
    """The state while a round is open."""

    task: Task
    survey: Survey
    reach: Integers  # (inputs and target,)
    sums: Integers | None = None  # the totals that the fit is made of
    held_out: Integers | None = None
    fit: RidgeFit | None = None
    rows: int = 0  # that the fit is made of
    coverage: float = 0.0
    scored: bool = False
    clipped: int = 0  # standardized values beyond 2**REACH_MAX
    evaluation: Evaluation | None = None


class Ridge:
    """The strategy of `ridge`: see `fedmq.algorithms.base.AdditiveAlgorithm`.

    It asks for the products, and then for the score of the model; and again from the start if other trainers answer.
    """

    name = "ridge"
    needs_survey = True
    Parameters = RidgeParameters

    def __init__(self, parameters: RidgeParameters) -> None:
        self.parameters = parameters

    def init(self, task: Task, _seed: int, survey: Survey) -> RidgeState:
        if isinstance(one_layer(task.model, "algorithm ridge"), LogLinear):
            raise BadConfiguration(f"algorithm ridge: expected a model of values, got {task.model}: use newton")
        start = self._start(task, survey)
        zeros = np.zeros(num_standardized(task))
        try:
            check_down(self._query(0), task, {"shift": zeros, "deviation": zeros + 1.0, "reach": start.reach})
        except Rejected as refused:
            raise BadConfiguration(f"algorithm ridge: {refused.detail}: take fewer inputs or features") from refused
        return start

    def ask(self, state: RidgeState) -> Plan:
        """Ask for the products, then for the score."""
        moments = state.survey.features
        if state.fit is None:
            arrays = {"shift": moments.means, "deviation": moments.deviations, "reach": state.reach}
            return Plan(self._query(moments.num_examples), arrays)
        return Plan(score_query(state.task, moments), {"parameters": state.fit.parameters})

    def close(self, state: RidgeState, total: Total | None, _late: Mapping[int, Total]) -> RidgeState:
        if total is None:
            return state
        if state.fit is None:
            return self._fitted(state, total)
        evaluation = scored(state.fit.parameters, total, self.ask(state).query)
        if total.coverage > state.coverage or (total.coverage >= 1.0 and total.num_examples != state.rows):
            return replace(self._start(state.task, state.survey), evaluation=evaluation)
        return replace(state, evaluation=evaluation, scored=True)

    def evaluation(self, state: RidgeState) -> Evaluation | None:
        """Return the fitted model once it is scored."""
        return state.evaluation

    def result(self, state: RidgeState) -> RidgeFit | None:
        """Return the fit, None before it."""
        return state.fit

    def findings(self, state: RidgeState) -> Findings:
        """Return the penalty, and the coefficients of a model without Fourier features."""
        fit, model = state.fit, state.task.model
        if fit is None:
            return Findings()
        coefficients: tuple[Coefficient, ...] = ()
        if not isinstance(model, Fourier | Code):
            slopes = fit.parameters[: -model.outputs].reshape(model.inputs, model.outputs)
            coefficients = linear_coefficients(state.task, state.survey, slopes, fit.parameters[-model.outputs :])
        figures: dict[str, float | str | None] = {
            "rows": state.rows,
            "coverage": state.coverage,
            "penalty": fit.penalty,
            "features": fit.features,
            "held-out loss": fit.held_out_loss,
            "clipped": state.clipped,
        }
        return Findings(coefficients=coefficients, figures=figures)

    def _query(self, num_examples: int) -> Gram:
        """Return the query for so many rows: more rows leave fewer bits for each number."""
        rows_max, holdout = rows_max_for(num_examples), self.parameters.holdout
        return Gram(
            holdout=holdout if self.parameters.penalty is None else 0.0,
            part_bits=part_bits_for(rows_max),
            rows_max=rows_max,
        )

    def forget(self, state: RidgeState, arrays: Arrays) -> RidgeFit:
        """Return the model without the rows of one trainer, whose answer to the query `gram` has these arrays.

        Sums can be subtracted, and the penalty is relative to the variance of the rows that remain, so the model is
        that of a run without the trainer, but for the rounding of inputs that are standardized by all rows. The
        features of a Fourier model remain those that all rows have chosen.

        Raises:
            BadConfiguration: there is no fit yet.
        """
        sums, held_out = state.sums, state.held_out
        if sums is None or held_out is None:
            raise BadConfiguration("forget: expected a run with a fitted model, got one without: let it finish first")
        return self._fit(state, sums - arrays["sums"], held_out - arrays["held_out"])

    def finished(self, state: RidgeState) -> bool:
        """Return whether the model of all rows is scored."""
        return state.scored and state.coverage >= 1.0

    def _start(self, task: Task, survey: Survey) -> RidgeState:
        return RidgeState(task, survey, np.full(num_standardized(task), REACH_MIN, np.int64))

    def _fitted(self, state: RidgeState, total: Total) -> RidgeState:
        needed = needed_reach(total.arrays["reach"])
        if isinstance(state.task.model, Fourier):  # which bounds its inputs itself
            needed[: state.task.model.inputs] = REACH_MIN
        if (needed > state.reach).any():  # ask again, with room for the largest values
            return replace(state, reach=np.maximum(needed, state.reach))
        sums, held_out = total.arrays["sums"], total.arrays["held_out"]
        fit = self._fit(state, sums, held_out)
        clipped = int(total.arrays["reach"][:, -1].sum())
        return replace(
            state,
            sums=sums,
            held_out=held_out,
            fit=fit,
            rows=total.num_examples,
            coverage=total.coverage,
            clipped=clipped,
        )

    def _fit(self, state: RidgeState, sums: Integers, held_out: Integers) -> RidgeFit:
        moments = state.survey.features
        return fit_ridge(
            sums,
            held_out,
            self._query(moments.num_examples),
            state.task,
            state.reach,
            moments.means,
            moments.deviations,
            self.parameters.penalty,
        )
