"""Newton's method for generalized linear models: linear, logistic, multinomial and Poisson regression.

Each round asks for the gradient g and the Hessian H of half the deviance at the coefficients, over all rows, and adds
H^-1 g (iteratively reweighted least squares: McCullagh and Nelder, "Generalized linear models", 2.5). A step that does
not lower the objective is halved. The sums are exact, so the coefficients are the same bits for any split of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import Evaluation, Plan, Total, check_down
from fedmq.algorithms.evaluation.row_scores import evaluation_of_rows, loss_unit, score_query, scored
from fedmq.algorithms.findings import Coefficient, Findings, feature_names, known, output_names
from fedmq.algorithms.newton.query import (
    OBJECTIVE_FRACTION_BITS,
    OBJECTIVE_LIMB_BITS,
    Curvature,
    family_model,
    is_poisson,
    num_outputs,
)
from fedmq.algorithms.newton.summary import Coefficients, information_criterion, raw_errors
from fedmq.algorithms.standardization import (
    REACH_MAX,
    REACH_MIN,
    needed_reach,
    part_bits_for,
    rows_max_for,
    unstandardized,
)
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.algorithms.statistics.constant_model import constant_outputs
from fedmq.algorithms.statistics.query import has_weights, num_classes, num_standardized
from fedmq.algorithms.statistics.survey import Survey
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.algebra import Cholesky
from fedmq.exact.integers import combine, symmetric, to_floats
from fedmq.models.arrays import Floats, Integers
from fedmq.tasks.task import Task

STEP_SHARE = 1e-9  # converged: no coefficient moves by more than this share of the largest one, or of 1
RISE_SHARE = 1e-9  # rounding may raise the objective by this share of it
HALVINGS_MAX = 30
RISE_SHARE_PARTIAL = 0.5  # the same, for rounds that other trainers have answered
MEAN_BITS = 4  # that the bound of the means of counts is raised by, if the model needs larger ones,
ROOM_SHARE = 0.05  # when steps have become smaller than this share
PATIENCE = 8  # rounds with missing trainers that ask the same again, until each has answered
CURVATURE_SHARE = 1e-6  # classes are separated when the curvature falls below this share of its start
RUNNING, CONVERGED, SEPARATED, STALLED = "running", "converged", "separated", "stalled"


class NewtonParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `newton`."""

    penalty: Annotated[float, Meta(ge=0.0)] = 0.0  # half of it times each squared coefficient of a standardized input


@dataclass(frozen=True, eq=False)
class NewtonStep:
    """The coefficients before the newest step, the step, and how much of it was taken."""

    before: Floats
    per_row: float  # the objective there, divided by the rows
    direction: Floats
    share: float = 1.0


@dataclass(frozen=True, eq=False)
class NewtonState:
    """The state while a round is open."""

    task: Task
    survey: Survey
    reach: Integers  # (inputs and target,)
    coefficients: Floats  # that the open round asks about, of standardized inputs
    step: NewtonStep | None = None
    start: Floats | None = None  # the diagonal of the first Hessian, 0 for columns that were not kept
    waited: int = 0  # rounds without an answer of every member since a complete one
    questions: int = 0
    status: str = RUNNING
    rows: int = 0
    coverage: float = 0.0
    scored: bool = False  # the coefficients stand, and trainers have scored the model
    found: Coefficients | None = None
    evaluation: Evaluation | None = None


@dataclass(frozen=True, eq=False)
class _Curve:
    """Objective, gradient (outputs * design,) and Hessian with the penalty, from a total."""

    objective: float
    deviance: float
    gradient: Floats
    hessian: Floats


class Newton:
    """The strategy of `newton`: see `fedmq.algorithms.base.AdditiveAlgorithm`.

    It asks for the curvature until the coefficients stand, then for the score of the model; and again from the start if
    other trainers answer.
    """

    name = "newton"
    needs_survey = True
    uses = ("weight", "offset")
    Parameters = NewtonParameters

    def __init__(self, parameters: NewtonParameters) -> None:
        self.parameters = parameters

    def init(self, task: Task, _seed: int, survey: Survey) -> NewtonState:
        family_model(task.model, "algorithm newton")
        if task.schema is not None and task.schema.offset and num_outputs(task) > 1:
            raise BadConfiguration(
                "algorithm newton: expected offsets of values, counts or two classes, got "
                f"{num_outputs(task) + 1} classes: remove offset from the schema"
            )
        start = self._start(task, survey)
        zeros = np.zeros(num_standardized(task))
        arrays = {"shift": zeros, "deviation": zeros + 1.0, "reach": start.reach}
        nothing = np.zeros((num_outputs(task), 1 + task.model.inputs))
        try:
            check_down(Curvature(), task, {**arrays, "coefficients": nothing})
        except Rejected as refused:
            raise BadConfiguration(f"algorithm newton: {refused.detail}: take fewer inputs") from refused
        return start

    def ask(self, state: NewtonState) -> Plan:
        """Ask for the curvature, then for the score."""
        moments = state.survey.features
        if state.status != RUNNING:
            parameters = self._parameters(state, moments, state.coefficients)
            return Plan(score_query(state.task, moments), {"parameters": parameters})
        return Plan(
            self._query(state, moments),
            {
                "shift": moments.means,
                "deviation": moments.deviations,
                "reach": state.reach,
                "coefficients": state.coefficients,
            },
        )

    def close(self, state: NewtonState, total: Total | None, _late: Mapping[int, Total]) -> NewtonState:
        if total is None:
            return state
        moments = state.survey.features
        if state.status == RUNNING:
            return self._stepped(state, moments, total)
        plan = self.ask(state)
        evaluation = scored(plan.arrays["parameters"], total, plan.query)
        if total.coverage > state.coverage or (total.coverage >= 1.0 and total.num_examples != state.rows):
            return replace(self._start(state.task, state.survey), evaluation=evaluation)
        return replace(state, evaluation=evaluation, scored=True)

    def evaluation(self, state: NewtonState) -> Evaluation | None:
        """Return the newest coefficients that trainers have scored."""
        return state.evaluation

    def result(self, state: NewtonState) -> Coefficients | None:
        """Return the coefficients with their errors, None before the first curvature."""
        return state.found

    def findings(self, state: NewtonState) -> Findings:
        """Return the coefficients by name, and how well they fit."""
        found = state.found
        if found is None:
            return Findings()
        names, outputs = ("(intercept)", *feature_names(state.task)), output_names(state.task)
        low, high = found.interval()
        coefficients = tuple(
            Coefficient(
                output=outputs[-len(found.estimates) :][row],
                name=name,
                estimate=float(found.estimates[row, place]),
                standard_error=known(found.standard_errors[row, place]),
                z=known(found.z[row, place]),
                p=known(found.p_values[row, place]),
                low=known(low[row, place]),
                high=known(high[row, place]),
                dropped=not found.kept[row][place],
            )
            for row in range(len(found.estimates))
            for place, name in enumerate(names)
        )
        family = "counts" if is_poisson(state.task) else "classes" if num_classes(state.task) else "values"
        figures: dict[str, float | str | None] = {
            "family": family,
            "status": found.status,
            "rows": found.num_examples,
            "coverage": found.coverage,
            "rounds": found.rounds,
            "deviance": found.deviance,
            "dispersion": found.dispersion,
            "aic": found.aic,
            "penalty": self.parameters.penalty,
            "clipped": found.clipped,
        }
        if num_classes(state.task):
            figures["reference"] = outputs[0]
        return Findings(coefficients=coefficients, figures=figures)

    def finished(self, state: NewtonState) -> bool:
        """Return whether the coefficients stand, and the model is scored."""
        return state.scored and state.coverage >= 1.0

    def _start(self, task: Task, survey: Survey) -> NewtonState:
        first = _first_coefficients(task, survey.features)
        return NewtonState(task, survey, np.full(num_standardized(task), REACH_MIN, np.int64), first)

    def _query(self, state: NewtonState, moments: ColumnMoments) -> Curvature:
        rows_max, scale = rows_max_for(moments.num_examples), 0
        if is_poisson(state.task):  # 2**scale is at least four times the largest count, and more if means need it
            largest = max(abs(float(state.survey.lowest[-1])), abs(float(state.survey.highest[-1])))
            scale = max(0, int(np.frexp(largest)[1]) + 1)
            scale += MEAN_BITS * int(state.reach[-1] - REACH_MIN)
        elif not num_classes(state.task):
            scale = int(state.reach[-1]) + 1
        unit = loss_unit(state.task, moments)
        weight_scale = 0
        if (weights := state.survey.weights) is not None:  # each is below 2**weight_scale
            weight_scale = int(np.frexp(state.survey.highest[weights])[1]) - 1
        return Curvature(
            scale=scale, weight_scale=weight_scale, unit=unit, part_bits=part_bits_for(rows_max), rows_max=rows_max
        )

    def _stepped(self, state: NewtonState, moments: ColumnMoments, total: Total) -> NewtonState:
        """Take a step, halve the last one, or stop."""
        needed = needed_reach(total.arrays["reach"])
        if is_poisson(state.task):
            needed[-1] = REACH_MIN  # on the way, means beyond the bound do no harm: see below
        if (needed > state.reach).any():  # ask again, with room for the largest values
            return replace(state, reach=np.maximum(needed, state.reach))
        task, coefficients, query = state.task, state.coefficients, self._query(state, moments)
        curve = self._curve(state, coefficients, query, total)
        parameters = self._parameters(state, moments, coefficients)
        evaluation = evaluation_of_rows(parameters, total, 2 * query.unit - query.loss_fraction_bits)
        if total.coverage < 1.0 and state.waited < PATIENCE:  # the answers so far go on: see `Additive.close`
            return replace(state, evaluation=evaluation, waited=state.waited + 1)
        step, per_row = state.step, curve.objective / total.num_examples
        exact = total.coverage >= 1.0 and total.num_examples == state.rows
        state = replace(state, evaluation=evaluation, questions=state.questions + 1)
        state = replace(state, rows=total.num_examples, coverage=total.coverage)
        if step and per_row > step.per_row + (RISE_SHARE if exact else RISE_SHARE_PARTIAL) * max(1.0, step.per_row):
            share = step.share / 2.0
            if share < 2.0**-HALVINGS_MAX:
                return replace(state, status=STALLED, coefficients=step.before)
            halved = replace(step, share=share)
            return replace(state, step=halved, coefficients=step.before + share * step.direction)
        state = replace(state, waited=0 if total.coverage >= 1.0 else state.waited)
        factor = Cholesky.of(curve.hessian)
        moved = coefficients + factor.solve(curve.gradient).reshape(coefficients.shape)
        direction = moved - coefficients
        size, largest = float(np.abs(direction).max()), max(1.0, float(np.abs(moved).max()))
        needs_room = is_poisson(task) and total.arrays["reach"][-1, -1] > 0 and state.reach[-1] < REACH_MAX
        if needs_room and size <= ROOM_SHARE * largest:
            roomier = np.concatenate([state.reach[:-1], state.reach[-1:] + 1])
            return replace(state, reach=roomier, coefficients=moved, step=None)
        left = np.where(factor.kept, np.diag(curve.hessian), 0.0)
        start = left if state.start is None else state.start
        status = RUNNING
        if size <= STEP_SHARE * largest:
            status = CONVERGED
        elif num_classes(task) and not self.parameters.penalty and (left < CURVATURE_SHARE * start).any():
            status, moved = SEPARATED, coefficients
        state = replace(
            state,
            step=NewtonStep(coefficients, per_row, direction),
            start=start,
            status=status,
            coefficients=moved,
        )
        return replace(state, found=self._summary(state, moments, curve, factor, total))

    def _curve(self, state: NewtonState, coefficients: Floats, query: Curvature, total: Total) -> _Curve:
        """Return the exact totals as float64, and add the penalty."""
        task, bits = state.task, query.part_bits
        outputs, design = coefficients.shape
        gaussian = not num_classes(task) and not is_poisson(task)
        fraction_bits = 2 * bits - np.concatenate([[REACH_MIN], state.reach[: task.model.inputs]])
        parts = total.arrays["gradient"].astype(object).reshape(4, outputs, design)
        sums = (parts[0] << 2 * bits) + ((parts[1] + parts[2]) << bits) + parts[3]
        gradient = np.ldexp(to_floats(sums, fraction_bits + 2 * bits), query.scale + query.weight_scale)
        rows, columns = np.triu_indices(design)
        hessian = np.zeros((outputs * design, outputs * design))
        pairs = [(one, other) for one in range(outputs) for other in range(one, outputs)]
        weights_scale = query.weight_scale + (query.scale if is_poisson(task) else 0)
        for place, (one, other) in enumerate(pairs):
            triangle = combine(total.arrays["hessian"][3 * place : 3 * place + 3], bits)
            block = np.ldexp(
                symmetric(to_floats(triangle, fraction_bits[rows] + fraction_bits[columns])), weights_scale
            )
            here, there = (slice(index * design, (index + 1) * design) for index in (one, other))
            hessian[here, there] = hessian[there, here] = block if one == other else -block
        unit = (2 * query.scale if gaussian else query.scale) + query.weight_scale
        half_deviance = float(np.ldexp(_joined(total.arrays["objective"]), unit))
        penalty = _penalty(outputs, design, self.parameters.penalty)
        pulled = np.zeros(outputs * design)
        flat = coefficients.ravel()
        for column in range(len(flat)):
            pulled += penalty[:, column] * flat[column]
        objective = half_deviance + 0.5 * math.fsum((pulled * flat).tolist())
        return _Curve(objective, 2.0 * half_deviance, gradient.ravel() - pulled, hessian + penalty)

    def _parameters(self, state: NewtonState, moments: ColumnMoments, coefficients: Floats) -> Floats:
        """Return the parameters of the task's model, in the units of the rows."""
        estimates = _raw(state.task, moments, moments, coefficients)
        if num_classes(state.task):
            estimates = np.concatenate([np.zeros((1, estimates.shape[1])), estimates])
            if self.parameters.penalty and len(estimates) > 2:  # the penalty is symmetric: so are its coefficients
                mean = estimates[0]
                for one in estimates[1:]:
                    mean = mean + one
                estimates = estimates - mean / float(len(estimates))
        return np.concatenate([estimates[:, 1:].T.ravel(), estimates[:, 0]])

    def _summary(
        self, state: NewtonState, moments: ColumnMoments, curve: _Curve, factor: Cholesky, total: Total
    ) -> Coefficients:
        task, shape = state.task, state.coefficients.shape
        kept, estimated = factor.kept.reshape(shape), int(np.count_nonzero(factor.kept))
        deviance, dispersion, scale = curve.deviance, 1.0, 1.0
        units = state.survey.units
        weight_scale = self._query(state, moments).weight_scale
        constant = float(np.ldexp(2.0 * _joined(total.arrays["constant"]), weight_scale))
        is_gaussian = not num_classes(task) and not is_poisson(task)
        if is_gaussian:
            scale = float(moments.deviations[-1]) ** 2
            dispersion = deviance / max(1, total.num_examples - estimated)
        errors = np.full(shape, np.nan)
        penalized = self.parameters.penalty > 0.0
        if not penalized and (state.status != RUNNING or state.waited):  # an inverse is dear
            errors = raw_errors(task, units, factor.inverse(), dispersion, kept)
        return Coefficients(
            estimates=_raw(task, units, moments, state.coefficients),
            standard_errors=errors,
            kept=tuple(tuple(bool(one) for one in row) for row in kept),
            deviance=deviance * scale,
            dispersion=dispersion * scale,
            num_examples=total.num_examples,
            coverage=total.coverage,
            rounds=state.questions,
            status=state.status,
            clipped=int(total.arrays["reach"][: task.model.inputs, -1].sum()),
            aic=None
            if penalized or (is_gaussian and has_weights(task))
            else information_criterion(task, deviance * scale, constant, total.num_examples, estimated),
        )


def _joined(halves: Integers) -> float:
    """Return the sum whose halves these are."""
    high, low = (int(one) for one in halves)
    return float(np.ldexp(float((high << OBJECTIVE_LIMB_BITS) + low), -OBJECTIVE_FRACTION_BITS))


def _first_coefficients(task: Task, moments: ColumnMoments) -> Floats:
    """Return the constant model: its intercepts, and no slopes."""
    first = np.zeros((num_outputs(task), 1 + task.model.inputs))
    outputs = constant_outputs(task, moments)
    if num_classes(task):
        first[:, 0] = outputs[1:] - outputs[0]
    elif is_poisson(task):
        first[:, 0] = outputs
    return first


def _raw(task: Task, units: ColumnMoments, moments: ColumnMoments, coefficients: Floats) -> Floats:
    """Return coefficients (outputs, 1 + inputs) for inputs with the means and deviations of `units`."""
    inputs = task.model.inputs
    scale, center = np.ones(1), np.zeros(1)
    if not num_classes(task) and not is_poisson(task):
        scale, center = moments.deviations[inputs:], moments.means[inputs:]
    slopes, biases = unstandardized(
        coefficients[:, 1:].T, coefficients[:, 0], units.means[:inputs], units.deviations[:inputs], scale, center
    )
    return np.concatenate([biases[:, None], slopes.T], axis=1)


def _penalty(outputs: int, design: int, penalty: float) -> Floats:
    """Return the matrix of the penalty: on each slope, and for three and more classes symmetric in all of them.

    With the first class as reference, the sum over classes of (w - mean w)**2 is w' (I - 1 1' / classes) w.
    """
    between = np.eye(outputs) - (1.0 / (outputs + 1) if outputs > 1 else 0.0)
    matrix = np.zeros((outputs, design, outputs, design))
    for column in range(1, design):
        matrix[:, column, :, column] = between * penalty
    return matrix.reshape(outputs * design, outputs * design)
