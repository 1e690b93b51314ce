"""The queries `private-figures` and `private-fitted`: how well a model does, answered with noise."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import BLOCK_COPIES, ArrayBounds, Demand, Shapes
from fedmq.algorithms.private.query import PrivateQuery, Sensitivity, bits_of
from fedmq.algorithms.statistics.query import num_classes
from fedmq.models.networks import Code
from fedmq.tasks.row_views import View
from fedmq.tasks.task import Task

FRACTION_BITS = 12  # of all numbers, counts too: noise in whole rows would be too coarse to share
LOSS_MAX, VALUE_MAX = 4.0, 2.0  # nats of a row; units of an error, and of a target
COUNT_SHARE = Fraction(3, 4)  # of rho, for the counts beside the losses
BLOCK_ROWS = 4096


class PrivateFigures(PrivateQuery, frozen=True, tag="private-figures", kw_only=True):
    """Count and add up the errors of one model on held-out rows.

    Down: `parameters` (num_parameters,) float64. Up, int64: for classes `confusion` (classes, classes) by true and
    predicted class, and `loss` (1,), cross-entropies of at most LOSS_MAX; for values `errors` (3,), the sums of squared
    errors, targets and squared targets, in units of `unit` around `center`, each at most ±VALUE_MAX before it is
    squared. All have FRACTION_BITS.
    """

    rows: ClassVar[View] = "held-out"
    sends: ClassVar[str] = (
        "counts of right and wrong predictions and summed errors on rows that are held out, with noise"
    )

    center: Annotated[float, Meta(ge=-1e300, le=1e300)] = 0.0
    unit: Annotated[float, Meta(gt=0.0, le=1e300)] = 1.0

    @property
    def row_bits(self) -> int:
        return bits_of(int(VALUE_MAX**2 * 4) << FRACTION_BITS)

    def sensitivities(self, task: Task, _shapes: Shapes) -> Mapping[str, Sensitivity]:
        if num_classes(task):
            losses = Sensitivity(int(LOSS_MAX) << FRACTION_BITS, 1 - COUNT_SHARE)
            return {"confusion": Sensitivity(1 << FRACTION_BITS, COUNT_SHARE), "loss": losses}
        # The root of 4**2 + 2**2 + 4**2 is 6: two squares, and a target.
        return {"errors": Sensitivity(6 << FRACTION_BITS, Fraction(1))}

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"parameters": ArrayBounds((task.model.num_parameters,))}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        if classes := num_classes(task):
            most = num_examples * int(LOSS_MAX) << FRACTION_BITS
            return {
                "confusion": ArrayBounds((classes, classes), np.int64, 0, num_examples << FRACTION_BITS),
                "loss": ArrayBounds((1,), np.int64, 0, most),
            }
        most = num_examples * int(VALUE_MAX**2) << FRACTION_BITS
        return {"errors": ArrayBounds((3,), np.int64, -most, most)}

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: one model."""
        return 1

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        widest = 1 if isinstance(task.model, Code) else max(task.model.widest, task.model.inputs)
        numbers = task.model.num_parameters + BLOCK_COPIES * BLOCK_ROWS * widest
        return Demand(8 * numbers, num_examples * task.model.num_parameters)


class PrivateFitted(PrivateFigures, frozen=True, tag="private-fitted", kw_only=True):
    """The same of the rows that the model is trained on."""

    rows: ClassVar[View] = "features"
    sends: ClassVar[str] = "the same on the rows that the model is trained on, with noise"
