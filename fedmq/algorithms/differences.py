"""Sites whose rows are unlike those of the others: another unit, values far off, labels that are reversed.

The aggregator compares each site that permits its own figures with the sum of the others. A trainer compares its own
columns with the statistics that come with each round, whatever it permits, and warns its own operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Literal

import msgspec
import numpy as np

from fedmq.algorithms.evaluation.figures import Metrics
from fedmq.models.arrays import Floats, Integers

VALUES_MIN = 20  # of a column, at the site and elsewhere
UNIT_RATIO = 5.0  # of deviations, and about that of means: a factor, such as 18 between mg/dl and mmol/l
FAR_DEVIATIONS = 4.0  # between the means
ROWS_MIN = 10  # held-out rows of a site
REVERSED_BELOW, RIGHT_ABOVE = 0.3, 0.7  # areas under the curve or accuracies, of the site and of the others
Reason = Literal["unit", "far", "labels"]


class Difference(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One way in which a site differs; `column` is empty for its labels."""

    reason: Reason
    column: str = ""
    detail: str


class ColumnSummary(msgspec.Struct, frozen=True):
    """Numbers of values, means and deviations of columns, each (columns,)."""

    counts: Integers
    means: Floats
    deviations: Floats


def differing_columns(
    names: tuple[str, ...], site: ColumnSummary, others: ColumnSummary, where: str = "elsewhere"
) -> tuple[Difference, ...]:
    """Return the columns whose mean or scale at a site is unlike that of the others, in their order.

    `where` says in the details whose rows the others are.
    """
    found = []
    for place, name in enumerate(names):
        if min(site.counts[place], others.counts[place]) < VALUES_MIN:
            continue
        mean, other = float(site.means[place]), float(others.means[place])
        deviation, other_deviation = float(site.deviations[place]), float(others.deviations[place])
        reason = _reason(mean, deviation, other, other_deviation)
        if reason is not None:
            question = "is the unit the same?" if reason == "unit" else "are they the same thing?"
            detail = (
                f"mean {mean:.4g}, deviation {deviation:.3g}; {where} {other:.4g}, {other_deviation:.3g}: {question}"
            )
            found.append(Difference(reason=reason, column=name, detail=detail))
    return tuple(found)


def odd_columns(
    names: tuple[str, ...], site: ColumnSummary, others: ColumnSummary, each: Sequence[ColumnSummary]
) -> tuple[Difference, ...]:
    """Return the columns that are unlike those of the `others` together, and of more than half of `each` of them.

    One site with large numbers makes all others unlike the rest of the rows; only that one is unlike most sites.
    """
    pairs = [{one.column for one in differing_columns(names, site, other)} for other in each]
    return tuple(
        one
        for one in differing_columns(names, site, others)
        if 2 * sum(one.column in columns for columns in pairs) > len(pairs) or not pairs
    )


def _reason(mean: float, deviation: float, other: float, other_deviation: float) -> Reason | None:
    wide, narrow = max(deviation, other_deviation), min(deviation, other_deviation)
    if narrow > 0.0 and wide >= UNIT_RATIO * narrow:
        large, small = (mean, other) if deviation > other_deviation else (other, mean)
        centered = abs(mean) < deviation and abs(other) < other_deviation
        if centered or (large * small > 0.0 and abs(large) >= UNIT_RATIO / 2.0 * abs(small)):
            return "unit"
    if abs(mean - other) > FAR_DEVIATIONS * wide > 0.0:
        return "far"
    return None


def reversed_labels(sites: Mapping[str, Metrics]) -> dict[str, Difference]:
    """Return the sites on whose held-out rows a model is as wrong as it is right at the others, by name."""
    found = {}
    for name, metrics in sites.items():
        others = [value for one, other in sites.items() if one != name and (value := _rightness(other)) is not None]
        value = _rightness(metrics)
        if value is None or not others or value >= REVERSED_BELOW or median(others) <= RIGHT_ABOVE:
            continue
        figure = "accuracy" if metrics.auc is None else "AUC"
        detail = f"{figure} {value:.2f} on its held-out rows, {median(others):.2f} elsewhere: are its labels reversed?"
        found[name] = Difference(reason="labels", detail=detail)
    return found


def _rightness(metrics: Metrics) -> float | None:
    """Return the area under the curve, or the accuracy; None of values, and of few rows."""
    if metrics.rows < ROWS_MIN or metrics.rmse is not None:
        return None
    return metrics.accuracy if metrics.auc is None else metrics.auc


def column_summary(columns: Floats) -> ColumnSummary:
    """Return the summary of encoded columns (rows, columns), NaN for missing."""
    present = ~np.isnan(columns)
    counts = present.sum(axis=0)
    values, rows = np.where(present, columns, 0.0), np.maximum(counts, 1)
    means = values.sum(axis=0) / rows
    deviations = np.sqrt((np.where(present, columns - means, 0.0) ** 2).sum(axis=0) / rows)
    return ColumnSummary(counts, means, deviations)
