"""What a generalized linear model says about the rows: coefficients with errors, and how well they fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.newton.query import is_poisson, num_outputs
from fedmq.algorithms.statistics.columns import ColumnMoments
from fedmq.algorithms.statistics.query import num_classes
from fedmq.exact.algebra import quadratic_form
from fedmq.models.arrays import Floats
from fedmq.tasks.task import Task


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Coefficients in the units of the rows: (outputs, 1 + inputs), the intercept first.

    There is one output for each class but the first, which is the reference, or one. `standard_errors` are those of
    maximum likelihood, NaN for a dropped column, before the end, and with a penalty. `deviance` is that of these rows.
    """

    estimates: Floats
    standard_errors: Floats
    kept: tuple[tuple[bool, ...], ...]  # False: the column depends on those before it, and its coefficient is 0
    deviance: float
    dispersion: float  # the variance of the residuals of values; 1 for classes and counts
    num_examples: int
    coverage: float  # of the newest round
    rounds: int  # questions about the curvature
    status: str  # running, converged, separated or stalled
    clipped: int  # standardized values beyond 4,096 deviations
    aic: float | None  # Akaike's information criterion; None with a penalty

    @property
    def z(self) -> Floats:
        """Estimates in units of their standard errors (outputs, 1 + inputs)."""
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio: Floats = self.estimates / self.standard_errors
        return ratio

    @property
    def p_values(self) -> Floats:
        """The two-sided normal probabilities of |z| or more (outputs, 1 + inputs)."""
        return np.array([[math.erfc(abs(one) / math.sqrt(2.0)) for one in row] for row in self.z.tolist()])

    def interval(self, z: float = 1.959963984540054) -> tuple[Floats, Floats]:
        """Return the confidence intervals of ±z standard errors; of 95 % by default."""
        return self.estimates - z * self.standard_errors, self.estimates + z * self.standard_errors


def raw_errors(
    task: Task, moments: ColumnMoments, inverse: Floats, dispersion: float, kept: npt.NDArray[np.bool_]
) -> Floats:
    """Return the standard errors in the units of the rows from the inverse Hessian of standardized inputs."""
    inputs = task.model.inputs
    shift, deviation = moments.means[:inputs], moments.deviations[:inputs]
    scale = 1.0 if num_classes(task) or is_poisson(task) else float(moments.deviations[inputs])
    design = 1 + inputs
    errors = []
    for output in range(num_outputs(task)):
        block = inverse[output * design : (output + 1) * design, output * design : (output + 1) * design]
        intercept = np.concatenate([[1.0], -shift / deviation])[:, None]
        variances = np.concatenate([quadratic_form(block, intercept), np.diag(block)[1:] / (deviation * deviation)])
        errors.append(np.sqrt(np.maximum(variances * dispersion, 0.0)) * scale)
    found: Floats = np.where(kept, np.stack(errors), np.nan)
    return found


def information_criterion(task: Task, deviance: float, constant: float, num_examples: int, estimated: int) -> float:
    """Return 2 * parameters - 2 * log likelihood; the variance of values counts as a parameter.

    `constant` is -2 * the log likelihood of the counts themselves as means; 0 for classes.
    """
    if num_classes(task) or is_poisson(task):
        return deviance + constant + 2.0 * estimated
    spread = math.log(2.0 * math.pi * deviance / num_examples) if deviance > 0.0 else -math.inf
    return num_examples * (spread + 1.0) + 2.0 * (estimated + 1)
