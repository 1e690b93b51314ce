"""Figures of a model from what the queries `held-out` and `fitted` add up: the same bits for any split of the rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import msgspec
import numpy as np
from msgspec.structs import replace

from fedmq.algorithms.base import Total
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

AUC_WITHIN = 0.001  # share of pairs that cells may leave open: beyond that, edges are made finer


class ClassFigures(msgspec.Struct, frozen=True, kw_only=True):
    """How well one class is found. Figures without a row to divide by are None."""

    rows: int  # of this class
    precision: float | None
    recall: float | None
    f1: float | None
    auc: float | None  # against the rest


class CalibrationBin(msgspec.Struct, frozen=True, kw_only=True):
    """Rows with a predicted probability in one tenth of 0 to 1: its mean, and the share of rows that are right."""

    rows: int
    predicted: float | None
    observed: float | None


class Metrics(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures of one model on the rows of so many trainers; those that do not fit the task are None.

    Each row counts once. A row's cross-entropy counts at most 20 nats. Values are in the units of the target.
    """

    rows: int
    trainers: int
    coverage: float = 1.0  # the share of the members that are in it
    correct: int = 0
    accuracy: float | None = None
    balanced_accuracy: float | None = None  # the mean recall of the classes that have rows
    auc: float | None = None  # area under the ROC curve; of more than two classes the mean of each against the rest
    log_loss: float | None = None  # nats a row
    brier: float | None = None  # mean squared error of the probabilities; of two classes, of the second one
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None
    loss: float | None = None  # of a model that is code: the mean
    clipped: int = 0  # numbers beyond 4,096 deviations of the target, which count as that
    confusion: tuple[tuple[int, ...], ...] = ()  # rows by true class and predicted class
    classes: tuple[ClassFigures, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()  # of the second of two classes, or of the predicted of more


def metrics_of(task: Task, query: HeldOut, total: Total) -> Metrics:
    """Return the figures that a total of answers to the query gives."""
    sums, rows = total.arrays, int(total.arrays["rows"][0])
    about = Metrics(rows=rows, trainers=total.trainers, coverage=total.coverage)
    if "confusion" in sums:
        return _of_classes(about, sums)
    correct = int(sums["correct"][0])
    about = replace(about, correct=correct, accuracy=_ratio(correct, rows))
    if "loss" in sums:
        return replace(about, loss=_mean(sums["loss"], LOSS_BITS, rows))
    return _of_values(about, sums, query.unit, task.output_scale)


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
    )


def _of_values(about: Metrics, sums: Mapping[str, Integers], unit: int, scale: float) -> Metrics:
    rows = about.rows
    if not rows:
        return about
    absolute, squared, values, squares = (_whole(one) for one in sums["errors"])
    around = Fraction(squares << 2 * VALUE_BITS - SQUARE_BITS) - Fraction(values * values, rows)
    spread, error = around / 4**VALUE_BITS, Fraction(squared, 1 << SQUARE_BITS)
    in_units = math.ldexp(scale, unit)
    return replace(
        about,
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
