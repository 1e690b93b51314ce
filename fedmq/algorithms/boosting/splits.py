"""The best split of each node, from the histograms of its rows."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedmq.algorithms.boosting.bins import Bins
from fedmq.algorithms.boosting.query import FRACTION_BITS
from fedmq.models.arrays import Floats, Integers
from fedmq.models.trees import EVERYTHING, WORD_BITS

GRADIENT, HESSIAN, COUNT = range(3)  # the sums of a cell
GAIN_MIN = 1e-9  # what rounding may make of no gain
HESSIAN_MIN = 1e-3  # of each side of a split, as in scikit-learn
CATEGORY_HESSIAN = 10.0  # added to that of a category when categories are ordered: few rows say little


class Growth(NamedTuple):
    """How trees grow, and the units of their sums."""

    penalty: float  # lambda: half of it times each squared leaf is added to the loss
    min_rows: int  # of each side of a split
    gradient_unit: int = 0  # binary exponent
    hessian_unit: int = 0

    def gradients(self, sums: Integers) -> Floats:
        """Return summed gradients in the unit of the scores."""
        return np.ldexp(sums.astype(np.float64), self.gradient_unit - FRACTION_BITS)

    def hessians(self, sums: Integers) -> Floats:
        """Return summed Hessians in the unit of the scores."""
        return np.ldexp(sums.astype(np.float64), self.hessian_unit - FRACTION_BITS)

    def scored(self, sums: Integers) -> Floats:
        """Return G**2 / (H + lambda) of `sums` (nodes, 3, ...): twice what a leaf lowers the loss by."""
        gradients, hessians = self.gradients(sums[:, GRADIENT]), self.hessians(sums[:, HESSIAN])
        gradients *= gradients
        hessians += self.penalty
        gradients /= np.maximum(hessians, HESSIAN_MIN)  # below it no split is allowed
        return gradients

    def leaf(self, sums: Integers) -> float:
        """Return -G / (H + lambda) of the sums (3,) of one leaf."""
        hessian = float(self.hessians(sums[HESSIAN])) + self.penalty
        return -float(self.gradients(sums[GRADIENT])) / max(hessian, HESSIAN_MIN)

    def gains(self, left: Integers, total: Integers) -> Floats:
        """Return the gain of splits with the sums `left` (nodes, 3, splits) of `total` (nodes, 3); 0 if not allowed.

        Chen and Guestrin (2016), "XGBoost: a scalable tree boosting system", equation 7, without its factor 1/2.
        """
        right = total[:, :, None] - left
        gains = self.scored(left)
        gains += self.scored(right)
        gains -= self.scored(total)[:, None]
        allowed = np.minimum(left[:, COUNT], right[:, COUNT]) >= self.min_rows
        allowed &= self.hessians(np.minimum(left[:, HESSIAN], right[:, HESSIAN])) >= HESSIAN_MIN
        return np.where(allowed, gains, 0.0)


class Splits(NamedTuple):
    """The best split of each node; a gain of at most GAIN_MIN is none."""

    gains: Floats  # (nodes,)
    columns: Integers  # (nodes,)
    missing: Floats  # (nodes,), see `fedmq.models.trees.Tree`
    rules: Floats  # (nodes, words)
    left: Integers  # (nodes, 3), sums of the rows that go to the left
    total: Integers  # (nodes, 3)


def find_splits(histograms: Integers, bins: Bins, growth: Growth, words: int) -> Splits:
    """Return the best split of each node from its histograms (nodes, 3, cells); the first one of equal gains."""
    starts, cells = bins.starts, bins.cells
    total = histograms[:, :, : cells[0]].sum(axis=2)
    nodes = len(histograms)
    best = Splits(
        np.zeros(nodes), np.zeros(nodes, np.int64), np.zeros(nodes), np.zeros((nodes, words)), total.copy(), total
    )
    numbers = np.flatnonzero(bins.categories == 0)
    if len(numbers):
        _put_numbers(best, histograms, bins, growth, numbers)
    for column in np.flatnonzero(bins.categories):
        one = histograms[:, :, starts[column] : starts[column] + cells[column]]
        _put_categories(best, one, int(column), growth)
    return best


def _put_numbers(best: Splits, histograms: Integers, bins: Bins, growth: Growth, numbers: Integers) -> None:
    """Put the best split of a column of numbers: after each cell, with missing values to the right or to the left."""
    starts, cells, total = bins.starts, bins.cells, best.total
    column_of = np.repeat(np.arange(len(cells)), cells)
    ends = starts + cells - 1  # of each column, the cell of missing values
    places = np.flatnonzero(np.isin(column_of, numbers) & (np.arange(len(column_of)) != ends[column_of]))
    columns = column_of[places]
    summed = np.cumsum(histograms, axis=2)
    before = np.where(starts > 0, summed[:, :, starts - 1], 0)
    left = summed[:, :, places] - before[:, :, columns]
    absent = histograms[:, :, ends[columns]]
    gains = np.stack([growth.gains(left, total), growth.gains(left + absent, total)], axis=1)
    nodes, side, place = np.arange(len(total)), *np.divmod(gains.reshape(len(total), -1).argmax(axis=1), len(places))
    chosen, column = places[place], columns[place]
    first_edge = np.cumsum(bins.edge_counts) - bins.edge_counts
    edge = first_edge[column] + chosen - starts[column]
    is_last = chosen == ends[column] - 1
    padded = np.append(bins.edges, EVERYTHING)
    sums = left[nodes, :, place]
    missing = absent[nodes, :, place]
    sums = sums + missing * (side == 1)[:, None]
    larger = sums[:, COUNT] * 2 > total[:, COUNT]
    best.gains[:] = gains[nodes, side, place]
    best.columns[:] = column
    best.missing[:] = np.where(missing[:, COUNT] > 0, side == 1, larger)  # unknown: with the most rows
    best.rules[:, 0] = np.where(is_last, EVERYTHING, padded[np.where(is_last, len(bins.edges), edge)])
    best.left[:] = sums


def _put_categories(best: Splits, histograms: Integers, column: int, growth: Growth) -> None:
    """Put the best split of a column of categories where it is better; `histograms` is (nodes, 3, categories + 1).

    Ordered by their mean gradient, the best of all sets is a beginning of the order: W. D. Fisher (1958), "On grouping
    for maximum homogeneity". Missing is one more category. Categories without rows go where most rows go.
    """
    counts = histograms[:, COUNT]
    means = growth.gradients(histograms[:, GRADIENT])
    means /= growth.hessians(histograms[:, HESSIAN]) + CATEGORY_HESSIAN
    order = np.argsort(np.where(counts > 0, means, np.inf), axis=1, kind="stable")
    left = np.cumsum(np.take_along_axis(histograms, order[:, None, :], axis=2), axis=2)
    gains = growth.gains(left, best.total)
    for node in np.flatnonzero(gains.max(axis=1) > best.gains):
        place = int(gains[node].argmax())
        sums = left[node, :, place]
        to_left = counts[node] == 0 if sums[COUNT] * 2 > best.total[node, COUNT] else np.zeros(len(counts[node]), bool)
        to_left[order[node, : place + 1]] = True
        words = np.zeros(best.rules.shape[1])
        for category in np.flatnonzero(to_left[:-1]):
            words[category // WORD_BITS] += float(1 << category % WORD_BITS)
        best.gains[node] = gains[node, place]
        best.columns[node] = column
        best.missing[node] = float(to_left[-1])
        best.rules[node] = words
        best.left[node] = sums
