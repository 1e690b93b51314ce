"""Private `newton`: steps along noisy gradients, by a bound of the Hessian that one sum of products gives.

For two classes the Hessian of the log loss is at most X'X / 4, for more at most X'X / 2 for each class, whatever the
coefficients (Böhning 1992, "Multinomial logistic regression algorithm", lemma 1). So all questions ask for the same
products, their mean has less noise with each of them, and each step lowers the loss but for noise. The bound is raised
by the size of the noise, about the largest eigenvalue of a symmetric matrix of it, so that it stays positive: as the
ridge of AdaSSP (Wang 2018, "Revisiting differentially private linear regression", arXiv 1803.02596).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import Plan, Total
from fedmq.algorithms.newton.private_query import (
    RESIDUAL_FRACTION_BITS,
    ROW_FRACTION_BITS,
    Clip,
    ClippedCurvature,
    linear_model,
    num_residuals,
)
from fedmq.algorithms.private.columns import target_unit
from fedmq.algorithms.private.query import Noise
from fedmq.algorithms.statistics.query import num_classes
from fedmq.exact.algebra import Cholesky
from fedmq.exact.integers import symmetric, triangle_of
from fedmq.models.arrays import Floats
from fedmq.tasks.task import Task

STEPS = 8
GRADIENT_CLIP = 0.25  # of the length of a row
DAMPING = 2.25  # times the deviation of the noise and the root of the columns: what is added to the diagonal


class PrivateNewtonParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `newton` in a private run."""

    penalty: Annotated[float, Meta(ge=0.0)] = 0.0  # half of it times each squared slope is added to the loss
    clip: Clip | None = None  # the length of a row, the constant 1 among its numbers; None: by the number of features
    gradient_clip: Clip | None = None  # the length of a row's gradient; None: a quarter of that of a row
    steps: Annotated[int, Meta(ge=1, le=1000)] = STEPS


@dataclass(frozen=True, eq=False)
class CurvatureState:
    """The state while a question is open."""

    task: Task
    noise: Noise
    coefficients: Floats  # (residuals, 1 + inputs) of standardized targets
    products: Floats  # (pairs of columns,), summed over the questions,
    variance: float = 0.0  # that of their noise
    asked: int = 0  # questions that are answered


class PrivateLinear:
    """What private `newton` and `ridge` share: their state and their model."""

    name: ClassVar[str]

    def init(self, task: Task, _seed: int, noise: Noise) -> CurvatureState:
        linear_model(task.model, f"algorithm {self.name}")
        design = 1 + task.model.inputs
        return CurvatureState(task, noise, np.zeros((num_residuals(task), design)), np.zeros(triangle_of(design)))

    def model_parameters(self, state: CurvatureState) -> Floats:
        """Return the parameters of the task's linear model: slopes (inputs, outputs), then biases (outputs,)."""
        center, unit = target_unit(state.task)
        rows = state.coefficients * unit
        rows[:, 0] += center
        if num_classes(state.task) == 2:
            rows = np.concatenate([np.zeros_like(rows), rows])
        return np.concatenate([rows[:, 1:].T.ravel(), rows[:, 0]])


class PrivateNewton(PrivateLinear):
    """The strategy of private `newton`: see `fedmq.algorithms.private.strategy.PrivateAlgorithm`."""

    name = "newton"
    Parameters = PrivateNewtonParameters

    def __init__(self, parameters: PrivateNewtonParameters) -> None:
        self.parameters = parameters

    def questions(self, _task: Task, rounds: int) -> int:
        return min(self.parameters.steps, rounds)

    def ask(self, state: CurvatureState) -> Plan:
        center, unit = target_unit(state.task)
        clip = self.parameters.clip or default_clip(state.task)
        squares = not num_classes(state.task)
        query = ClippedCurvature(
            noise=state.noise,
            clip=clip,
            gradient_clip=self.parameters.gradient_clip or clip * GRADIENT_CLIP,
            squares=squares,
            center=center,
            unit=unit,
        )
        return Plan(query, {"coefficients": state.coefficients})

    def close(self, state: CurvatureState, total: Total, _late: Mapping[int, Total]) -> CurvatureState:
        query = self.ask(state).query
        assert isinstance(query, ClippedCurvature)
        classes = num_classes(state.task)
        return stepped(
            state, query, total, 1.0 if query.squares else 0.25 if classes == 2 else 0.5, self.parameters.penalty
        )


def default_clip(task: Task) -> float:
    """Return the length of a row whose features deviate from the middle of their bounds by a quarter of the range."""
    return math.sqrt(1.0 + task.model.inputs)


def stepped(
    state: CurvatureState, query: ClippedCurvature, total: Total, bound: float, penalty: float = 0.0
) -> CurvatureState:
    """Take one step; `bound` times the products is at least the Hessian of each residual."""
    shapes = {"coefficients": state.coefficients.shape}
    noise = query.deviations(state.task, shapes, total.trainers)
    products = state.products + np.ldexp(total.arrays["products"].astype(np.float64), -2 * ROW_FRACTION_BITS)
    variance = state.variance + math.ldexp(noise["products"], -2 * ROW_FRACTION_BITS) ** 2
    asked = state.asked + 1
    matrix = symmetric(products / asked) * bound
    size = len(matrix)
    damping = bound * DAMPING * math.sqrt(variance * size) / asked
    matrix[np.arange(size), np.arange(size)] += damping
    gradient = np.ldexp(total.arrays["gradient"].astype(np.float64), -ROW_FRACTION_BITS - RESIDUAL_FRACTION_BITS)
    if penalty:
        places = np.arange(1, size)
        matrix[places, places] += penalty
        gradient = gradient - penalty * np.concatenate([[0.0], np.ones(size - 1)]) * state.coefficients
    step = Cholesky.of(matrix).solve(gradient.T).T
    return replace(state, coefficients=state.coefficients + step, products=products, variance=variance, asked=asked)
