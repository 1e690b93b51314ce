"""The query `clipped-curvature`: gradient and products of rows of bounded length, answered with noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import ArrayBounds, Demand, Shapes
from fedmq.algorithms.private.query import PrivateQuery, Sensitivity, bits_of
from fedmq.algorithms.statistics.query import num_classes
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.integers import triangle_of
from fedmq.models.exact_outputs import one_layer
from fedmq.models.networks import MLP, Linear, Model
from fedmq.tasks.task import Task

ROW_FRACTION_BITS, ROW_BITS = 12, 20  # of a number of the row; it counts at most 2**8
RESIDUAL_FRACTION_BITS, RESIDUAL_BITS = 14, 17  # of a residual; it counts at most 2**3
VALUE_RESIDUAL = 2.0  # the largest residual of a standardized value: half the distance of its bounds
GRADIENT_SHARE = Fraction(1, 2)  # of rho
BLOCK_ROWS = 4096

Clip = Annotated[float, Meta(gt=0.0, le=1 << ROW_BITS - ROW_FRACTION_BITS)]


class ClippedCurvature(PrivateQuery, frozen=True, tag="clipped-curvature", kw_only=True):
    """Sum gradients and products of rows, each row shortened to a length of at most `clip`.

    A row x is the constant 1 and the prepared features. Its residual r is y - p of each class at the coefficients; of
    two classes, of the second one. With `squares` it is y - x beta: of a value in units of `unit` around `center`, or
    of classes as 1 and 0 less their mean. Both are shortened in integers, r also to
    gradient_clip / |x|. So one row adds at most |r| |x| to the gradient and |x|**2 to the products.

    Down: `coefficients` (residuals, 1 + inputs) float64. Up, int64: `gradient` (residuals, 1 + inputs), the sum of
    r x'; `products` (pairs of columns,), the upper triangle of the sum of x x'.
    """

    sends: ClassVar[str] = "the gradient and the products of shortened rows, with noise"

    clip: Clip
    gradient_clip: Clip | None = None  # the length of a row's gradient; None: what the lengths of r and x allow
    squares: bool = False
    center: Annotated[float, Meta(ge=-1e300, le=1e300)] = 0.0
    unit: Annotated[float, Meta(gt=0.0, le=1e300)] = 1.0

    @property
    def row_limit(self) -> int:
        """The length of a row, in units of 2**-ROW_FRACTION_BITS."""
        return int(self.clip * 2.0**ROW_FRACTION_BITS)

    def residual_limit(self, task: Task) -> int:
        """The length of a residual, in units of 2**-RESIDUAL_FRACTION_BITS."""
        classes = num_classes(task)
        if not classes:
            length = VALUE_RESIDUAL
        elif self.squares:  # one class at 1, all less their mean; of two classes the second
            length = 0.5 if classes == 2 else math.sqrt(1.0 - 1.0 / classes)
        else:
            length = 1.0 if classes == 2 else math.sqrt(2.0)
        return int(length * 2.0**RESIDUAL_FRACTION_BITS)

    def gradient_limit(self, task: Task) -> int:
        """The length of a row's gradient, in units of the product of both."""
        most = self.row_limit * self.residual_limit(task)
        if self.gradient_clip is None:
            return most
        return min(most, int(self.gradient_clip * 2.0 ** (ROW_FRACTION_BITS + RESIDUAL_FRACTION_BITS)))

    @property
    def row_bits(self) -> int:
        return bits_of(self.row_limit * max(self.row_limit, 1 << RESIDUAL_BITS))

    def sensitivities(self, task: Task, _shapes: Shapes) -> Mapping[str, Sensitivity]:
        gradient = Sensitivity(self.gradient_limit(task), GRADIENT_SHARE)
        return {"gradient": gradient, "products": Sensitivity(self.row_limit**2, 1 - GRADIENT_SHARE)}

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"coefficients": ArrayBounds((num_residuals(task), 1 + task.model.inputs))}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        design, norms = 1 + task.model.inputs, self.sensitivities(task, {})
        sizes = {"gradient": (num_residuals(task), design), "products": (triangle_of(design),)}
        most = {name: norms[name].norm * num_examples for name in sizes}
        return {name: ArrayBounds(size, np.int64, -most[name], most[name]) for name, size in sizes.items()}

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each number of an answer counts."""
        residuals, design = (*shapes.get("coefficients", ()), 1, 1)[:2]
        return residuals * design + triangle_of(design)

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        design = 1 + task.model.inputs
        return Demand(8 * (2 * design**2 + 16 * BLOCK_ROWS * design), num_examples * design**2)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            linear_model(task.model, self.kind)
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error


def linear_model(model: Model, about: str) -> Linear | MLP:
    """Return the model if it is linear in its inputs, of classes or values.

    Raises:
        BadConfiguration: it has another form; `about` names what needs it.
    """
    found = one_layer(model, about)
    if not isinstance(found, Linear | MLP):
        raise BadConfiguration(f"{about}: expected a linear model of classes or values in a private run, got {model}")
    return found


def num_residuals(task: Task) -> int:
    """Return how many residuals a row has: one for two classes or a value, else one for each class."""
    classes = num_classes(task)
    return classes if classes > 2 else 1
