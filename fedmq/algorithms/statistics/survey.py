"""What the columns of all sites hold: asked for in three rounds, and known as one value.

The spread bounds each column, the moments give its mean and deviation, and the histograms its quantiles and the counts
of its categories. An algorithm that trains along principal axes gets the products of the columns in one more round. All
are sums of integers over the training rows, so they are the same for any split and order of the rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fedmq.algorithms.base import Plan, Total
from fedmq.algorithms.statistics.columns import ColumnMoments, ColumnSpread
from fedmq.algorithms.statistics.components import principal_axes, products_plan
from fedmq.algorithms.statistics.query import BUCKETS_MAX, Histograms, Moments, has_weights, num_classes, num_columns
from fedmq.models.arrays import Floats, Integers
from fedmq.models.standardized import Standard, standard_for
from fedmq.tables.schema import Column
from fedmq.tasks.task import Task

RANGE = 4.0  # deviations to both sides of the mean that histograms divide
BUCKETS = 512  # of the histograms of a task with a schema, at least
PATIENCE = 8  # rounds that are repeated for more trainers
SURVEYS_MAX = 8  # that begin again in a run; then the newest statistics stay, so that no trainer delays it for ever


@dataclass(frozen=True, eq=False)
class Survey:
    """Statistics of columns: the inputs, encoded by the schema if there is one, weights, and the target if a value.

    `lowest` and `highest` bound the values of each column by powers of two or zero. `lower` and `upper` bound the
    values of each bucket of `histograms` (columns, buckets), which is one if no more were asked for; of a column with
    categories, bucket k has code k. `features` is about the inputs of the model and the target, after the columns are
    prepared by `preparation`; without a schema they are the columns. `units` has their means and deviations in the
    units of the columns. `weights` is the place of the column of weights; None without.
    """

    moments: ColumnMoments
    lowest: Floats
    highest: Floats
    lower: Floats
    upper: Floats
    histograms: Integers
    features: ColumnMoments
    preparation: Mapping[str, Floats]  # the arrays of a round; empty without a schema
    units: ColumnMoments
    weights: int | None
    axes: Integers | None = None  # of the standardized features, see `fedmq.models.standardized`; None: not asked for

    @property
    def num_examples(self) -> int:
        return self.moments.num_examples

    @property
    def coverage(self) -> float:
        return self.moments.coverage

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
        return np.array([self.quantile_of(column, share) for column in range(len(self.histograms))])

    def quantile_of(self, column: int, share: float) -> float:
        """Return the approximate quantile of one column; 0 if it has no values."""
        return _quantile(self.histograms[column], self.lower[column], self.upper[column], share)

    def _bounds(self, buckets: Integers) -> tuple[Floats, Floats]:
        columns = np.arange(len(buckets))
        return self.lower[columns, buckets], self.upper[columns, buckets]


@dataclass(frozen=True, eq=False)
class SurveyState:
    """What is known while the rounds of a survey run: first nothing, then the spread, then the moments.

    With `buckets` above 0 the histograms are asked for as well, with `components` above 0 the products.
    """

    columns: int
    buckets: int
    spread: ColumnSpread
    components: int = 0
    moments: ColumnMoments | None = None
    prepared: Survey | None = None  # all but the axes
    patient: bool = False  # it has begun again, because the rows were not the same in all of its rounds
    waited: int = 0  # rounds for the answers of more trainers
    again: int = 0  # times that a survey of the run has begun again
    found: Survey | None = None

    @property
    def may_begin_again(self) -> bool:
        """Whether other rows than before are a reason to begin again."""
        return self.again < SURVEYS_MAX

    @classmethod
    def begin(
        cls, task: Task, buckets: int = 0, components: int = 0, *, patient: bool = False, again: int = 0
    ) -> SurveyState:
        """Return the state before the first round; a task with a schema has histograms of at least BUCKETS.

        A `patient` survey repeats a round for up to PATIENCE times until every member answers.
        """
        schema = task.schema
        if schema is not None:
            buckets = max(buckets, BUCKETS, *(len(column.categories) for column in schema.columns))
        columns = num_columns(task)
        buckets = min(buckets, BUCKETS_MAX)
        return cls(columns, buckets, ColumnSpread(columns), components, patient=patient, again=again)

    def begun_again(self, task: Task) -> SurveyState:
        """Return the state before another first round, because the rows are not those of the last one."""
        return SurveyState.begin(task, self.buckets, self.components, patient=True, again=self.again + 1)

    def plan(self, task: Task) -> Plan:
        """Return what to ask next, with what prepares the columns for it."""
        if self.prepared is not None:
            plan = products_plan(standard_of(task, self.prepared, self.components))
            return Plan(plan.query, {**plan.arrays, **self.prepared.preparation})
        if self.spread.exponents is None:
            return self.spread.plan()
        if self.moments is None:
            return Plan(Moments(), {"fraction_bits": self.spread.fraction_bits()})
        return Plan(Histograms(), {"edges": self._edges(task, self.moments)})

    def after(self, task: Task, total: Total) -> SurveyState:
        """Return the state with the answers to `plan`; `found` is set after the last round."""
        expected = 1.0 if self.patient else 0.0 if self.moments is None else self.moments.coverage
        if total.coverage < expected and self.waited < PATIENCE:
            return replace(self, waited=self.waited + 1)
        if self.spread.exponents is None:
            return replace(self, spread=self.spread.with_total(total), waited=0)
        if self.moments is None:
            moments = self.spread.moments(total)
            if moments is None and self.may_begin_again:
                return self.begun_again(task)
            moments = moments or self.spread.moments_of(total)
            after = replace(self, moments=moments, waited=0)
            return after if self.buckets else after._known(task, moments, None)
        if total.coverage >= 1.0 and total.num_examples != self.moments.num_examples and self.may_begin_again:
            return self.begun_again(task)
        if self.prepared is not None:
            return replace(self, found=replace(self.prepared, axes=principal_axes(total, self.components)), waited=0)
        return self._known(task, self.moments, total.arrays["histograms"])

    def _known(self, task: Task, moments: ColumnMoments, histograms: Integers | None) -> SurveyState:
        low, high = (bound[:, None] for bound in self.spread.bounds())
        if histograms is None:
            lower, upper, histograms = low, high, moments.counts[:, None]
        else:
            edges = self._edges(task, moments)
            lower = np.concatenate([np.minimum(low, edges[:, :1]), edges], axis=1)
            upper = np.concatenate([edges, np.maximum(high, edges[:, -1:])], axis=1)
            for place, column in enumerate(_schema_columns(task)):
                if is_coded(column):
                    lower[place] = upper[place] = np.arange(float(self.buckets))
        preparation = _preparation(task, moments, lower, upper, histograms)
        features = _features(task, moments, histograms, preparation)
        units = _in_units(task, features, preparation)
        weights = len(_schema_columns(task)) if has_weights(task) else None
        bounds = low[:, 0], high[:, 0]
        found = Survey(moments, *bounds, lower, upper, histograms, features, preparation, units, weights)
        after = replace(self, moments=moments, waited=0)
        return replace(after, prepared=found) if self.components else replace(after, found=found)

    def _edges(self, task: Task, moments: ColumnMoments) -> Floats:
        """Return the edges (columns, buckets - 1) of histograms.

        Of a column with categories they are between the codes. Of others, half of them are even steps over the part of
        ±RANGE deviations that has values, and half share it out by the counts of the spread.
        """
        assert self.spread.exponents is not None
        low, high = self.spread.bounds()
        reach = moments.deviations * RANGE
        low, high = np.maximum(low, moments.means - reach), np.minimum(high, moments.means + reach)
        schema, edges = _schema_columns(task), []
        for place in range(self.columns):
            if place < len(schema) and is_coded(schema[place]):
                edges.append(np.arange(1, self.buckets) - 0.5)
                continue
            bottom, top = float(low[place]), float(high[place])
            fine = self.spread.shares(place, bottom, top, (self.buckets - 1) // 2) if schema else []
            even = self.buckets - 1 - len(fine)
            steps = bottom + (top - bottom) * (1.0 / (even + 1)) * np.arange(1.0, even + 1.0)
            edges.append(np.sort(np.concatenate([steps, fine])))
        return np.stack(edges)


def blank_survey(task: Task) -> Survey:
    """Return the survey of columns that nothing is known about: mean 0 and deviation 1."""
    columns, classes = num_columns(task), num_classes(task)
    zeros, counts = np.zeros(columns), np.ones(columns, np.int64)
    moments = ColumnMoments(1, 0.0, counts, counts * 0, np.ones(classes, np.int64), zeros, zeros)
    histograms = np.ones((columns, 1), np.int64)
    preparation = _preparation(task, moments, zeros[:, None], zeros[:, None], histograms)
    features = _features(task, moments, np.ones((columns, BUCKETS_MAX), np.int64), preparation)
    bounds, weights = zeros[:, None], len(_schema_columns(task)) if has_weights(task) else None
    return Survey(moments, zeros, zeros, bounds, bounds, histograms, features, preparation, features, weights)


def standard_of(task: Task, survey: Survey, components: int = 0) -> Standard:
    """Return how rows are standardized for a network: with `components`, along so many principal axes.

    Of a table, whose columns are prepared, the target alone is standardized; with components its features are, too.
    """
    moments = survey.features
    if task.schema is not None and not components:
        inputs = slice(0, task.model.inputs)
        means, variances = moments.means.copy(), moments.variances.copy()
        means[inputs], variances[inputs] = 0.0, 1.0
        moments = replace(moments, means=means, variances=variances)
    standard = standard_for(task.model, moments.means, moments.variances, values=task.loss == "squared-error")
    if not components:
        return standard
    unknown = np.zeros((task.model.inputs, components), np.int64)
    return replace(standard, axes=unknown if survey.axes is None else survey.axes)


def _schema_columns(task: Task) -> tuple[Column, ...]:
    return () if task.schema is None else task.schema.columns


def is_coded(column: Column) -> bool:
    """Return whether the values of a column are codes, each with a count of its own."""
    return column.kind in ("category", "ordinal", "boolean")


def _quantile(counts: Integers, lower: Floats, upper: Floats, share: float) -> float:
    below = np.concatenate([[0], np.cumsum(counts)])
    if not below[-1]:
        return 0.0
    wanted = share * float(below[-1])
    bucket = int(np.clip(np.searchsorted(below[1:], wanted, side="left"), 0, len(counts) - 1))
    part = (wanted - float(below[bucket])) / max(1.0, float(counts[bucket]))
    return float(lower[bucket] + (upper[bucket] - lower[bucket]) * part)


def _preparation(
    task: Task, moments: ColumnMoments, lower: Floats, upper: Floats, histograms: Integers
) -> dict[str, Floats]:
    """Return the arrays of a round that prepare columns: mean, deviation, and what fills the missing values in."""
    columns = _schema_columns(task)
    if not columns:
        return {}
    shift, scale, fill = np.zeros(len(columns)), np.ones(len(columns)), np.zeros(len(columns))
    for place, column in enumerate(columns):
        if column.kind == "category":
            continue  # features of 0 and 1
        shift[place], scale[place] = moments.means[place], moments.deviations[place]
        use_mean = column.missing == "mean"
        median = _quantile(histograms[place], lower[place], upper[place], 0.5)
        fill[place] = moments.means[place] if use_mean else median
    return {"column_shift": shift, "column_scale": scale, "column_fill": fill}


def _features(
    task: Task, moments: ColumnMoments, histograms: Integers, preparation: Mapping[str, Floats]
) -> ColumnMoments:
    """Return the moments of the model's inputs and of the target; each a few float64 operations on exact counts."""
    columns, rows = _schema_columns(task), max(1, moments.num_examples)
    if not columns or task.takes_columns:
        return moments
    means: list[float] = []
    variances: list[float] = []
    for place, column in enumerate(columns):
        present = int(moments.counts[place])
        if column.kind == "category":
            counts = [int(one) for one in histograms[place, : len(column.categories)]]
            for count in (*counts[1:], max(0, rows - present)):
                means.append(count / rows)
                variances.append(count / rows * (1.0 - count / rows))
            continue
        mean, variance = float(moments.means[place]), float(moments.variances[place])
        fill, scale = float(preparation["column_fill"][place]), float(preparation["column_scale"][place])
        share = present / rows
        filled = share * mean + (1.0 - share) * fill
        away, off = mean - filled, fill - filled
        spread = share * (variance + away * away) + (1.0 - share) * (off * off)
        means.append((filled - float(preparation["column_shift"][place])) / scale)
        variances.append(spread / scale / scale)
    values = slice(len(columns) + has_weights(task), None)  # the target
    assert all(map(math.isfinite, means))
    size = len(means)
    return ColumnMoments(
        num_examples=moments.num_examples,
        coverage=moments.coverage,
        counts=np.concatenate([np.full(size, moments.num_examples), moments.counts[values]]).astype(np.int64),
        clipped=np.concatenate([np.zeros(size, np.int64), moments.clipped[values]]),
        classes=moments.classes,
        means=np.concatenate([means, moments.means[values]]),
        variances=np.concatenate([variances, moments.variances[values]]),
    )


def _in_units(task: Task, features: ColumnMoments, preparation: Mapping[str, Floats]) -> ColumnMoments:
    """Return the moments of features as means and variances in the units of the columns."""
    columns = _schema_columns(task)
    if not columns or task.takes_columns:
        return features
    sizes = [column.num_features for column in columns]
    target = len(features.means) - sum(sizes)
    shift = np.concatenate([np.repeat(preparation["column_shift"], sizes), np.zeros(target)])
    scale = np.concatenate([np.repeat(preparation["column_scale"], sizes), np.ones(target)])
    return replace(features, means=shift + scale * features.means, variances=features.variances * scale * scale)
