"""Figures of a model as values: what `metrics_of` returns, and what events and reports carry."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import msgspec

CLASSES_SHOWN_MAX = 12  # in the tables of an event
TRAINERS_SHOWN_MAX = 16  # in an event
RowsOf = Literal["training", "held-out"]  # which rows a figure is of


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

    Each row counts once. A row's cross-entropy counts at most 20 nats. Errors are in the units of the target.
    """

    rows: int
    trainers: int
    coverage: float = 1.0  # the share of the members that are in it
    loss: float = 0.0  # summed, as the task sums it
    correct: int = 0
    accuracy: float | None = None
    balanced_accuracy: float | None = None  # the mean recall of the classes that have rows
    auc: float | None = None  # area under the ROC curve; of more than two classes the mean of each against the rest
    log_loss: float | None = None  # nats a row
    brier: float | None = None  # mean squared error of the probabilities; of two classes, of the second one
    rmse: float | None = None
    mae: float | None = None
    r2: float | None = None
    clipped: int = 0  # numbers beyond 4,096 deviations of the target, which count as that
    confusion: tuple[tuple[int, ...], ...] = ()  # rows by true class and predicted class
    classes: tuple[ClassFigures, ...] = ()
    calibration: tuple[CalibrationBin, ...] = ()  # of the second of two classes, or of the predicted of more
    roc: tuple[tuple[tuple[float, float], ...], ...] = ()  # of each class, of two the second: false and true positives

    def brief(self) -> Metrics:
        """Return the single figures, without the tables."""
        return msgspec.structs.replace(self, confusion=(), classes=(), calibration=(), roc=())


class Measured(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures of one model, by the rows that they are of."""

    held_out: Metrics
    training: Metrics | None = None
    trainers: dict[str, Metrics] = {}  # on the held-out rows of each trainer that permits it

    def for_observers(self) -> Measured:
        """Return the figures without large tables, and of so many trainers as an event may have."""
        held_out = self.held_out if len(self.held_out.confusion) <= CLASSES_SHOWN_MAX else self.held_out.brief()
        return Measured(
            held_out=held_out,
            training=None if self.training is None else self.training.brief(),
            trainers={name: self.trainers[name].brief() for name in sorted(self.trainers)[:TRAINERS_SHOWN_MAX]},
        )

    def spread(self) -> SiteSpread | None:
        """Return the worst and the best trainer, None without two of them that have held-out rows."""
        shares = {name: one.accuracy for name, one in self.trainers.items() if one.rmse is None}
        errors = {name: one.rmse for name, one in self.trainers.items()}
        sign, values = (-1.0, errors) if any(one is not None for one in errors.values()) else (1.0, shares)
        known = sorted((sign * value, name) for name, value in values.items() if value is not None)
        if len(known) < 2:
            return None
        (worst, worst_name), (best, best_name) = known[0], known[-1]
        mean = math.fsum(value for value, _ in known) / len(known)
        return SiteSpread(
            figure="accuracy" if sign > 0.0 else "rmse",
            worst=worst_name,
            worst_value=sign * worst,
            best=best_name,
            best_value=sign * best,
            deviation=math.sqrt(math.fsum((value - mean) ** 2 for value, _ in known) / len(known)),
        )


class SiteSpread(msgspec.Struct, frozen=True, kw_only=True):
    """How a figure differs between the held-out rows of trainers."""

    figure: Literal["accuracy", "rmse"]
    worst: str  # trainer
    worst_value: float
    best: str  # trainer
    best_value: float
    deviation: float


class Score(NamedTuple):
    """What a task's metric is computed from, and which rows it is of."""

    loss: float
    correct: int
    rows: int
    of: RowsOf


class Baseline(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that was trained on the rows of one trainer, of all in one place, or of all trainers together."""

    rows: Literal["alone", "together", "pooled"]
    trainer: str = ""  # if alone
    held_out: Metrics | None = None  # on the held-out rows of all trainers
    failure: str = ""  # why there is no model
