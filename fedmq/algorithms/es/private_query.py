"""The query `clipped-slopes`: slopes along random directions, each row's of bounded length, answered with noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import BLOCK_COPIES, ArrayBounds, Demand, Shapes
from fedmq.algorithms.es.query import Pairs, Sigma
from fedmq.algorithms.private.query import PrivateQuery, Sensitivity, bits_of
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.directions import size_for
from fedmq.models.layers import Layered, layered
from fedmq.models.networks import LogLinear, Model
from fedmq.tasks.task import Task

FRACTION_BITS = 12
NUMBER_BITS = 22  # of a row's slope along one direction, before it is shortened
BLOCK_VALUES = 1 << 21  # numbers of the widest layer that a learner computes at once

Clip = Annotated[float, Meta(gt=0.0, le=256.0)]


class ClippedSlopes(PrivateQuery, frozen=True, tag="clipped-slopes", kw_only=True):
    """Sum the slopes of each row's loss along directions, each row's shortened to the length clip * sqrt(pairs).

    A slope is (loss(weights + sigma e) - loss(weights - sigma e)) / (2 sigma), for the signs e that `seed` and `number`
    give. So `clip` bounds about the length of a row's gradient, as in DP-SGD (Abadi et al. 2016).

    Down: `weights` (parameters,) float64. Up: `slopes` (1, pairs) int64, in units of 2**-FRACTION_BITS.
    """

    sends: ClassVar[str] = "slopes of the summed loss along random directions of shortened rows, with noise"

    seed: Annotated[int, Meta(ge=0, le=2**53)]
    number: Annotated[int, Meta(ge=1, le=2**53)]
    pairs: Pairs
    sigma: Sigma
    clip: Clip
    center: Annotated[float, Meta(ge=-1e300, le=1e300)] = 0.0
    unit: Annotated[float, Meta(gt=0.0, le=1e300)] = 1.0

    @property
    def row_limit(self) -> int:
        """The length of a row's slopes, in units of 2**-FRACTION_BITS."""
        return int(self.clip * math.sqrt(self.pairs) * 2.0**FRACTION_BITS)

    @property
    def row_bits(self) -> int:
        return bits_of(self.row_limit)

    def sensitivities(self, _task: Task, _shapes: Shapes) -> Mapping[str, Sensitivity]:
        return {"slopes": Sensitivity(self.row_limit, Fraction(1))}

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"weights": ArrayBounds((task.model.num_parameters,))}

    def answer(self, _task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        most = num_examples * self.row_limit
        return {"slopes": ArrayBounds((1, self.pairs), np.int64, -most, most)}

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: each candidate counts."""
        return 2 * self.pairs

    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        parameters = shapes["weights"][0]
        memory = 2 * self.pairs * parameters + BLOCK_COPIES * BLOCK_VALUES
        return Demand(8 * memory, 2 * self.pairs * parameters * max(1, num_examples))

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            network(task.model, self.kind)
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error
        if self.pairs > (most := size_for(task.model.num_parameters)):
            raise Rejected("values", f"expected at most {most} pairs, got {self.pairs}")


def network(model: Model, about: str) -> Layered:
    """Return the model if it is a network of classes or values.

    Raises:
        BadConfiguration: it has another form; `about` names what needs it.
    """
    found = layered(model, about)
    if isinstance(found, LogLinear):
        raise BadConfiguration(f"{about}: expected a network of classes or values in a private run, got {model}")
    return found
