"""Rows for tests of generalized linear models, made by integers, so that they are the same on every machine.

As a script it prints `glm_reference.json`: the coefficients and standard errors that statsmodels and scikit-learn find
on all rows together. It needs both, which the tests do not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from splits import classification, inputs_of, regression

from fedmq.exact.draws import normals, words
from fedmq.exact.elementary import exp, sigmoid
from fedmq.models.networks import LogLinear
from fedmq.tasks.task import Rows, Task


class Case(NamedTuple):
    task: Task
    rows: Rows
    penalty: float = 0.0


def uniform(rows: int, name: str) -> np.ndarray:
    return (words(rows, 1, name) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def standard(inputs: np.ndarray) -> np.ndarray:
    """The inputs without their scales and offsets."""
    return inputs / np.ldexp(1.0, np.arange(inputs.shape[1]) * 7 % 23 - 9) - 3.0


def values() -> Case:
    inputs = inputs_of(400, 6, "values")
    noise = normals(400, 1, "noise")
    slopes = np.array([1.0, -2.0, 0.5, 0.0, 3.0, 0.25])
    targets = 7.0 + noise
    for column, slope in zip(standard(inputs).T, slopes, strict=True):
        targets = targets + column * slope
    return Case(regression(6), Rows(inputs, targets))


def two_classes(rows: int, columns: int, bias: float, penalty: float = 0.0) -> Case:
    inputs = inputs_of(rows, columns, f"classes {rows}")
    plain = standard(inputs)
    chances = sigmoid(bias + 1.5 * plain[:, 0] - plain[:, 1] + 0.3 * plain[:, 2])
    targets = (uniform(rows, f"classes {rows}") < chances).astype(np.int64)
    return Case(classification(columns, 2), Rows(inputs, targets), penalty)


def three_classes(penalty: float = 0.0) -> Case:
    inputs = inputs_of(500, 4, "three")
    plain = standard(inputs)
    first, second = exp(0.5 + plain[:, 0]), exp(plain[:, 1] - 0.5 * plain[:, 2])
    drawn = uniform(500, "three") * (1.0 + first + second)
    return Case(classification(4, 3), Rows(inputs, (drawn > 1.0).astype(np.int64) + (drawn > 1.0 + first)), penalty)


def counts() -> Case:
    inputs = inputs_of(600, 5, "counts")
    plain = standard(inputs)
    chances = exp(0.4 * plain[:, 0] - 0.3 * plain[:, 1] + 0.7) * (1.0 / 40.0)
    drawn = np.stack([uniform(600, f"counts {one}") < chances for one in range(40)])
    return Case(regression(5, LogLinear(5)), Rows(inputs, drawn.sum(axis=0).astype(np.float64)))


def large_counts() -> Case:
    """Counts of about 1,000: their scale is far from that of the deviance."""
    inputs = inputs_of(400, 3, "large counts")
    means = 1000.0 * exp(0.4 * standard(inputs)[:, 0])
    drawn = np.rint(means + np.sqrt(means) * normals(400, 1, "large counts"))
    return Case(regression(3, LogLinear(3)), Rows(inputs, drawn))


def cases() -> Mapping[str, Case]:
    return {
        "values": values(),
        "two classes": two_classes(500, 5, 0.2),
        "a rare class": two_classes(800, 4, -4.0),
        "three classes": three_classes(),
        "counts": counts(),
        "large counts": large_counts(),
        "two classes, penalty": two_classes(200, 5, 0.2, penalty=1.0),
        "three classes, penalty": three_classes(penalty=1.0),
    }


def reference(case: Case) -> dict[str, Any]:
    """Coefficients (outputs, 1 + inputs), of penalized classes for each class, and standard errors."""
    import statsmodels.api as sm
    from sklearn.linear_model import LogisticRegression

    inputs, targets = case.rows
    mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
    if case.penalty:
        solver = "newton-cg" if targets.max() > 1 else "newton-cholesky"
        model = LogisticRegression(C=1.0 / case.penalty, tol=1e-13, max_iter=100_000, solver=solver)
        model.fit((inputs - mean) / deviation, targets)
        slopes = model.coef_ / deviation
        return {"estimates": np.column_stack([model.intercept_ - slopes @ mean, slopes]).tolist()}
    design = sm.add_constant(inputs)
    options = {"method": "newton", "tol": 1e-14, "maxiter": 100, "disp": 0}
    if isinstance(case.task.model, LogLinear):
        fit = sm.GLM(targets, design, sm.families.Poisson()).fit(tol=1e-14, maxiter=100)
        extra = {"deviance": fit.deviance, "aic": fit.aic}
    elif case.task.loss == "squared-error":
        fit = sm.OLS(targets, design).fit()
        extra = {"deviance": fit.ssr, "aic": fit.aic + 2.0}  # statsmodels does not count the variance
    else:
        kind = sm.MNLogit if targets.max() > 1 else sm.Logit
        fit = kind(targets, design).fit(**options)
        extra = {"deviance": -2.0 * fit.llf, "aic": fit.aic}
    estimates, errors = np.atleast_2d(fit.params.T), np.atleast_2d(fit.bse.T)
    return {"estimates": estimates.tolist(), "standard_errors": errors.tolist(), **extra}


if __name__ == "__main__":
    print(json.dumps({name: reference(case) for name, case in cases().items()}, indent=1))
