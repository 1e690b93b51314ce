"""The queries `evaluate` and `score-rows`: score candidates, or one model, on your rows. The answers are integers."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import (
    BLOCK_COPIES,
    CANDIDATES_MAX,
    SUM_BITS_MAX,
    AdditiveQuery,
    ArrayBounds,
    Demand,
    Shapes,
    demand_of_scores,
)
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.exact_outputs import one_layer
from fedmq.models.fourier import Fourier
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.tasks.task import Task

BLOCK_ROWS = 4096  # that a learner computes at once


class Evaluate(AdditiveQuery, frozen=True, tag="evaluate"):
    """Score candidates: summed losses in units of 2**-fraction_bits, and correct rows, of each.

    Down: `candidates` (n, parameters) float64. Up: `losses` (n,) int64, `correct` (n,) int64. A row's loss counts at
    most 2**row_loss_bits, so a total over `rows_max` rows stays below 2**62.
    """

    partial: ClassVar[bool] = True
    sends: ClassVar[str] = "the summed loss and the number of right rows of candidates"

    row_loss_bits: Annotated[int, Meta(ge=0, le=62)] = 10

    @property
    def row_bits(self) -> int:
        return self.fraction_bits + self.row_loss_bits

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"candidates": ArrayBounds((-1, task.model.num_parameters))}

    def answer(self, _task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        size = shapes["candidates"][:1]
        return {
            "losses": ArrayBounds(size, np.int64, 0, num_examples << self.row_bits),
            "correct": ArrayBounds(size, np.int64, 0, num_examples),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each candidate counts."""
        return max(1, *shapes.get("candidates", ())[:1], 0)

    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        return demand_of_scores(task, shapes["candidates"][0], num_examples)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        if not 1 <= (size := shapes["candidates"][0]) <= CANDIDATES_MAX:
            raise Rejected("values", f"expected 1 to {CANDIDATES_MAX} candidates, got {size}")


class ScoreRows(AdditiveQuery, frozen=True, tag="score-rows"):
    """Score one model with one layer exactly: each row's loss is rounded before any sum.

    Down: `parameters` (num_parameters,) float64. Up: `loss` (1,) int64, in units of 2**-fraction_bits, times 4**unit
    for squared errors; `correct` (1,) int64. A row's loss counts at most 2**ROW_LOSS_BITS.
    """

    sends: ClassVar[str] = "the summed loss and the number of right rows of one model"

    fraction_bits: Annotated[int, Meta(ge=0, le=FRACTION_BITS_MAX)] = FRACTION_BITS_MAX
    unit: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << (SUM_BITS_MAX - FRACTION_BITS_MAX - ROW_LOSS_BITS)

    @property
    def row_bits(self) -> int:
        return self.fraction_bits + ROW_LOSS_BITS

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"parameters": ArrayBounds((task.model.num_parameters,))}

    def answer(self, _task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        return {
            "loss": ArrayBounds((1,), np.int64, 0, num_examples << self.row_bits),
            "correct": ArrayBounds((1,), np.int64, 0, num_examples),
        }

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: one model."""
        return 1

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        widest = task.model.features if isinstance(task.model, Fourier) else task.model.inputs
        block = 8 * BLOCK_COPIES * BLOCK_ROWS * widest
        return Demand(8 * task.model.num_parameters + block, num_examples * task.model.num_parameters)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            one_layer(task.model, "score-rows")
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error
