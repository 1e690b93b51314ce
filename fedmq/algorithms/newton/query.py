"""The query `curvature`: the objective, its gradient and its Hessian at given coefficients."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import SUM_BITS_MAX, AdditiveQuery, ArrayBounds, Demand, Shapes
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.algorithms.standardization import PART_BITS_MAX, REACH_CELLS, PartBits, column_bounds
from fedmq.algorithms.statistics.query import EXPONENT_MAX, num_classes, num_standardized
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.integers import triangle_of
from fedmq.models.exact_outputs import OneLayer, one_layer
from fedmq.models.fourier import Fourier
from fedmq.models.networks import LogLinear, Model
from fedmq.tasks.task import Task

SCALE_MAX = EXPONENT_MAX + 40
OBJECTIVE_BITS = 10  # a row's objective counts at most 2**10, in units of 2**scale
OBJECTIVE_FRACTION_BITS = 50
OBJECTIVE_LIMB_BITS = 30  # it is two sums, of its high and its low half
BLOCK_ROWS = 4096


class Curvature(AdditiveQuery, frozen=True, tag="curvature"):
    """Sum the gradient and the Hessian of half the deviance.

    The task's model is the family: classes (multinomial, the first class is the reference), values (Gaussian), counts
    (Poisson). The inputs are standardized, in fixed point as in the query `gram`. A residual is divided by 2**scale and
    has 2 * part_bits fraction bits. The Hessian is a sum of v v', with v the row times the square root of its weight,
    one for each pair of outputs a <= b. The weight of a row, in units of 2**weight_scale, is a factor of all three. An
    offset is added to the linear predictor, of two classes to that of the second one.

    Down: `shift`, `deviation` float64, `reach` int64, each (columns,); `coefficients` (outputs, 1 + inputs) float64, of
    the standardized inputs, the intercept first. Up, all int64: `gradient` (4, outputs * (1 + inputs)), the products of
    high and low parts of row and residual; `hessian` (3 * pairs of outputs, pairs of columns); `reach` (columns,
    REACH_CELLS), of a target that is a count whether its mean is beyond 2**scale; `objective` (2,), the sums of its two
    halves; `constant` (2,), the same of log y! - y log y + y for counts, which the likelihood needs; `loss` and
    `correct` (1,) of the task.
    """

    sends: ClassVar[str] = "the gradient and the Hessian of the summed loss, for one Newton step"

    scale: Annotated[int, Meta(ge=-SCALE_MAX, le=SCALE_MAX)] = 0
    weight_scale: Annotated[int, Meta(ge=-SCALE_MAX, le=SCALE_MAX)] = 0  # of the unit of weights
    unit: Annotated[int, Meta(ge=-1000, le=1000)] = 0  # of the task's loss, see the query `score-rows`
    part_bits: PartBits = PART_BITS_MAX
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << (SUM_BITS_MAX - 2 * PART_BITS_MAX)

    @property
    def row_bits(self) -> int:
        return 2 * self.part_bits

    @property
    def loss_fraction_bits(self) -> int:
        return self.row_bits - ROW_LOSS_BITS

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {
            **column_bounds(num_standardized(task)),
            "coefficients": ArrayBounds((num_outputs(task), 1 + task.model.inputs)),
        }

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        outputs, design, most = num_outputs(task), 1 + task.model.inputs, num_examples << self.row_bits
        return {
            "gradient": ArrayBounds((4, outputs * design), np.int64, -most, most),
            "hessian": ArrayBounds((3 * triangle_of(outputs), triangle_of(design)), np.int64, -most, most),
            "reach": ArrayBounds((num_standardized(task), REACH_CELLS), np.int64, 0, num_examples),
            "objective": ArrayBounds((2,), np.int64, 0, num_examples << OBJECTIVE_LIMB_BITS),
            "constant": ArrayBounds((2,), np.int64, 0, num_examples << OBJECTIVE_LIMB_BITS),
            "loss": ArrayBounds((1,), np.int64, 0, most),
            "correct": ArrayBounds((1,), np.int64, 0, num_examples),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each element of gradient and Hessian counts."""
        outputs, design = (*shapes.get("coefficients", ()), 1, 1)[:2]
        return outputs * design + triangle_of(outputs) * triangle_of(design)

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        pairs, design = triangle_of(num_outputs(task)), 1 + task.model.inputs
        products = pairs * (2 * design) ** 2
        return Demand(8 * (2 * products + 16 * BLOCK_ROWS * design), num_examples * products)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            family_model(task.model, "curvature")
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error


def family_model(model: Model, about: str) -> OneLayer:
    """Return the model if it is a generalized linear one.

    Raises:
        BadConfiguration: it has another form; `about` names what needs it.
    """
    if isinstance(model, Fourier):
        raise BadConfiguration(f"{about}: expected a model of the inputs themselves, got {model}: use ridge")
    return one_layer(model, about)


def num_outputs(task: Task) -> int:
    """Return the rows of coefficients: one for each class but the first, or one."""
    return max(1, num_classes(task) - 1)


def is_poisson(task: Task) -> bool:
    """Return whether the targets are counts."""
    return isinstance(task.model, LogLinear)
