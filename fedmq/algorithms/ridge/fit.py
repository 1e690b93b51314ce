"""The model from the sums: penalties, their choice by held-out rows, and the way back to the units of the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedmq.algorithms.ridge.query import Gram, fraction_bits, num_features
from fedmq.algorithms.standardization import unstandardized
from fedmq.exact.algebra import Cholesky, quadratic_form
from fedmq.exact.integers import combine, symmetric, to_floats
from fedmq.models.arrays import Floats, Integers
from fedmq.models.fourier import Fourier
from fedmq.tasks.task import Task

PENALTIES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # for each row and unit of variance
FEATURE_SHARES = (4, 2, 1)  # of Fourier features: a quarter, a half, all


@dataclass(frozen=True, eq=False)
class RidgeFit:
    """A model and how it was found."""

    parameters: Floats  # of the task's model, in the units of the rows
    penalty: float  # for each row and unit of variance
    features: int  # that are used; the weights of the others are 0
    kept: tuple[bool, ...]  # of the features: False for one that depends on those before it
    held_out_loss: float | None  # the mean squared error on held-out rows, of standardized targets


@dataclass(frozen=True, eq=False)
class _Sums:
    """X'X of the constant and the features, X'Y, and the diagonal of Y'Y."""

    products: Floats
    right: Floats
    squares: Floats

    @classmethod
    def of(cls, sums: Integers, query: Gram, task: Task, reach: Integers) -> _Sums:
        bits = fraction_bits(query, task, reach)
        rows, columns = np.triu_indices(len(bits))
        full = symmetric(to_floats(combine(sums, query.part_bits), bits[rows] + bits[columns]))
        design = 1 + num_features(task)
        return cls(full[:design, :design], full[:design, design:], np.diag(full)[design:].copy())

    @property
    def num_examples(self) -> float:
        return float(self.products[0, 0])

    def factor(self, penalty: float) -> Cholesky:
        """Return the factor of X'X plus penalty * rows * variance for each feature, not for the constant.

        The variance is that of these very rows, so the penalty does not depend on how the inputs were standardized.
        """
        rows, sums, squares = self.num_examples, self.products[0], np.diag(self.products)
        penalties = (squares - sums * (sums / max(1.0, rows))) * penalty
        penalties[0] = 0.0
        matrix = self.products.copy()
        places = np.arange(len(matrix))
        matrix[places, places] += penalties
        return Cholesky.of(matrix)

    def loss(self, weights: Floats) -> float:
        """Return the sum over targets of the squared errors of weights (1 + features, targets)."""
        used = len(weights)
        errors = self.squares + quadratic_form(self.products[:used, :used], weights)
        cross = weights * self.right[:used]
        for row in cross:
            errors = errors - 2.0 * row
        return math.fsum(errors.tolist())  # the sum of Python rounds otherwise from 3.12 on


def correlations(sums: Integers, query: Gram, task: Task, reach: Integers) -> Floats:
    """Return the correlation of each pair of features and targets, (columns, columns); 0 for a constant column."""
    bits = fraction_bits(query, task, reach)
    rows, columns = np.triu_indices(len(bits))
    products = symmetric(to_floats(combine(sums, query.part_bits), bits[rows] + bits[columns]))
    count, totals = float(products[0, 0]), products[0, 1:]
    centered = products[1:, 1:] - totals[:, None] * (totals / max(1.0, count))
    spread = np.sqrt(np.maximum(np.diag(centered), 0.0))
    varies = spread > 0.0
    scale = np.where(varies, spread, 1.0)
    found: Floats = np.where(varies[:, None] & varies, centered / scale[:, None] / scale, 0.0)
    return np.clip(found, -1.0, 1.0)


def fit_ridge(
    sums: Integers,
    held_out: Integers,
    query: Gram,
    task: Task,
    reach: Integers,
    shift: Floats,
    deviation: Floats,
    penalty: float | None,
) -> RidgeFit:
    """Return the model of all rows, the held-out ones among them.

    Without a `penalty`, that of PENALTIES is taken which fits the held-out rows best when the others train, and the
    number of Fourier features likewise.
    """
    features, loss = num_features(task), None
    everything = _Sums.of(sums + held_out if held_out.size else sums, query, task, reach)
    if penalty is None:
        training, tested = (_Sums.of(one, query, task, reach) for one in (sums, held_out))
        loss, penalty, features = min(_candidates(training, tested, task))
        loss /= max(1.0, tested.num_examples)
    factor = everything.factor(penalty).leading(1 + features)
    weights = np.zeros((1 + num_features(task), everything.right.shape[1]))
    weights[: 1 + features] = factor.solve(everything.right[: 1 + features])
    kept = tuple(bool(one) for one in factor.kept[1:])
    return RidgeFit(_parameters(task, weights, shift, deviation), penalty, features, kept, loss)


def _candidates(training: _Sums, tested: _Sums, task: Task) -> Iterator[tuple[float, float, int]]:
    """Yield the held-out loss of each penalty and number of features."""
    shares = FEATURE_SHARES if isinstance(task.model, Fourier) else (1,)
    for penalty in PENALTIES:
        factor = training.factor(penalty)
        for features in sorted({max(1, num_features(task) // share) for share in shares}):
            weights = factor.leading(1 + features).solve(training.right[: 1 + features], refinements=0)
            yield tested.loss(weights), penalty, features


def _parameters(task: Task, weights: Floats, shift: Floats, deviation: Floats) -> Floats:
    """Return the parameters of the task's model, in the units of the rows."""
    inputs = task.model.inputs
    biases = weights[0]
    scale, center = (deviation[inputs:], shift[inputs:]) if len(shift) > inputs else (np.ones(1), np.zeros(1))
    if isinstance(task.model, Fourier):
        outside = [shift[:inputs], deviation[:inputs], (weights[1:] * scale).ravel()]
        return np.concatenate([*outside, biases * scale + center])
    slopes, offsets = unstandardized(weights[1:], biases, shift[:inputs], deviation[:inputs], scale, center)
    return np.concatenate([slopes.ravel(), offsets])
