"""Figures of a model from what the queries `held-out` and `fitted` add up: the same bits for any split of the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
from msgspec.structs import replace

from fedmq.algorithms.base import Total, Update
from fedmq.algorithms.evaluation.figures import CalibrationBin, ClassFigures, Metrics
from fedmq.algorithms.evaluation.held_out import (
    LIMB_BITS,
    LOSS_BITS,
    SCORE_CELLS,
    SQUARE_BITS,
    VALUE_BITS,
    HeldOut,
    first_edges,
)
from fedmq.models.arrays import Floats, Integers
from fedmq.tasks.task import Task

ROC_POINTS = 64  # of a curve, besides its ends
AUC_WITHIN = 0.001  # share of pairs that cells may leave open: beyond that, edges are made finer


def metrics_of(task: Task, query: HeldOut, total: Total) -> Metrics:
    """Return the figures that a total of answers to the query gives."""
    sums, rows = total.arrays, total.num_examples
    about = Metrics(rows=rows, trainers=total.trainers, coverage=total.coverage)
    if "confusion" in sums:
        return _of_classes(about, sums)
    correct = int(sums["correct"][0])
    about = replace(about, correct=correct, accuracy=_ratio(correct, rows))
    if "loss" in sums:
        return replace(about, loss=_mean(sums["loss"], LOSS_BITS, 1) or 0.0)
    return _of_values(about, sums, query.unit, task.output_scale)


def metrics_of_trainer(task: Task, query: HeldOut, update: Update) -> Metrics:
    """Return the figures that the answer of one trainer gives."""
    return metrics_of(task, query, Total(update.arrays, update.num_examples, 1, 1.0, update.fraction_bits))


def finer_edges(total: Total, edges: Floats) -> Floats | None:
    """Return edges that split crowded cells; None if the area under the curve is known to AUC_WITHIN.

    Rows with equal scores cannot be split, and need not be: a pair of them counts half. So ask again once or
    twice, no oftener.
    """
    others, own = np.split(total.arrays["scores"], 2)
    if max((_area(*pair)[1] for pair in zip(others, own, strict=True)), default=0.0) <= AUC_WITHIN:
        return None
    return np.stack([_finer(counts, cuts) for counts, cuts in zip(others + own, edges, strict=True)])


def _of_classes(about: Metrics, sums: Mapping[str, Integers]) -> Metrics:
    confusion, scores = sums["confusion"], sums["scores"]
    found, real, called = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    areas = [_area(others, own) for others, own in zip(*np.split(scores, 2), strict=True)]
    of_class = areas * 2 if len(areas) == 1 else areas
    figures = tuple(
        ClassFigures(
            rows=int(real[place]),
            precision=_ratio(found[place], called[place]),
            recall=_ratio(found[place], real[place]),
            f1=_ratio(2 * found[place], real[place] + called[place]),
            auc=of_class[place][0],
        )
        for place in range(len(confusion))
    )
    recalls = [one.recall for one in figures if one.recall is not None]
    cross_entropy, brier = sums["row_losses"]
    return replace(
        about,
        loss=_mean(cross_entropy, LOSS_BITS, 1) or 0.0,
        correct=int(found.sum()),
        accuracy=_ratio(found.sum(), about.rows),
        balanced_accuracy=_average(recalls),
        auc=_average([area for area, _ in areas if area is not None]),
        log_loss=_mean(cross_entropy, LOSS_BITS, about.rows),
        brier=_mean(brier, LOSS_BITS + (len(confusion) == 2), about.rows),  # of two classes, both errors are the same
        confusion=tuple(tuple(row) for row in confusion.tolist()),
        classes=figures,
        calibration=tuple(
            CalibrationBin(rows=int(count), predicted=_mean(share, LOSS_BITS, count), observed=_ratio(right, count))
            for count, right, share in zip(*sums["calibration"], sums["shares"], strict=True)
        ),
        roc=tuple(_curve(others, own) for others, own in zip(*np.split(scores, 2), strict=True)),
    )


def _of_values(about: Metrics, sums: Mapping[str, Integers], unit: int, scale: float) -> Metrics:
    rows = about.rows
    if not rows:
        return about
    absolute, squared, values, squares = (_whole(one) for one in sums["errors"])
    absolute, squared = max(0, absolute), max(0, squared)  # never negative, but for sums that no rows have
    around = Fraction(squares << 2 * VALUE_BITS - SQUARE_BITS) - Fraction(values * values, rows)
    spread, error = around / 4**VALUE_BITS, Fraction(squared, 1 << SQUARE_BITS)
    in_units = math.ldexp(scale, unit)
    return replace(
        about,
        loss=math.ldexp(float(error), 2 * unit),
        rmse=math.sqrt(error / rows) * in_units,
        mae=float(Fraction(absolute, rows << VALUE_BITS)) * in_units,
        r2=float(1 - error / spread) if spread > 0 else None,
        clipped=int(sums["clipped"][0]),
    )


def _area(others: Integers, own: Integers) -> tuple[float | None, float]:
    """Return the area under the ROC curve, None without rows of both kinds, and the most that it may be off.

    It is the share of pairs in which the row of the class has the higher score; pairs within a cell count half.
    """
    pairs = int(others.sum()) * int(own.sum())
    if not pairs:
        return None, 0.0
    below = (np.cumsum(others) - others).astype(object)
    own_rows, other_rows = own.astype(object), others.astype(object)
    ties = int((own_rows * other_rows).sum())
    return (2 * int((own_rows * below).sum()) + ties) / (2 * pairs), ties / (2 * pairs)


def _curve(others: Integers, own: Integers) -> tuple[tuple[float, float], ...]:
    """Return points of the ROC curve from (0, 0) to (1, 1): the shares of both kinds with at least some score."""
    if not others.sum() or not own.sum():
        return ()
    wrong, right = np.cumsum(others[::-1]), np.cumsum(own[::-1])
    turns = np.flatnonzero((others + own)[::-1])
    chosen = turns[np.unique(np.linspace(0, len(turns) - 1, min(ROC_POINTS, len(turns))).astype(np.int64))]
    points = [(int(wrong[one]) / int(wrong[-1]), int(right[one]) / int(right[-1])) for one in chosen]
    return ((0.0, 0.0), *points)


def _finer(counts: Integers, edges: Floats) -> Floats:
    """Return edges of which half have about the same number of rows between them, and half fit any model."""
    inner = np.arange(1, SCORE_CELLS // 2) * (float(counts.sum()) / (SCORE_CELLS // 2))  # rows below each new edge
    below = (np.cumsum(counts) - counts).astype(np.float64)
    cell = np.searchsorted(below, inner, side="right") - 1
    ends = np.concatenate([edges[:1], edges, edges[-1:]])  # the outermost cells have no width to share out
    passed = (inner - below[cell]) / np.maximum(counts[cell], 1)
    even = ends[cell] + (ends[cell + 1] - ends[cell]) * np.minimum(passed, 1.0)
    return np.sort(np.concatenate([even, first_edges()[::2]]))


def _whole(halves: Sequence[int] | Integers) -> int:
    return (int(halves[0]) << LIMB_BITS) + int(halves[1])


def _mean(halves: Integers, fraction_bits: int, rows: int) -> float | None:
    return _ratio(_whole(halves), int(rows) << fraction_bits)


def _ratio(part: int, whole: int) -> float | None:
    """Return the quotient, correctly rounded; None without a divisor."""
    return int(part) / int(whole) if whole else None


def _average(numbers: Sequence[float]) -> float | None:
    return math.fsum(numbers) / len(numbers) if numbers else None
