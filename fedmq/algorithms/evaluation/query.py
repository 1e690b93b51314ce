"""The query `evaluate`: score candidates on your rows. Its answers are integers, so their sums are exact."""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import CANDIDATES_MAX, AdditiveQuery, ArrayBounds, Demand, Shapes, demand_of_scores
from fedmq.errors import Rejected
from fedmq.tasks.task import Task


class Evaluate(AdditiveQuery, frozen=True, tag="evaluate"):
    """Score candidates: summed losses in units of 2**-fraction_bits, and correct rows, of each.

    Down: `candidates` (n, parameters) float64. Up: `losses` (n,) int64, `correct` (n,) int64. A row's loss counts at
    most 2**row_loss_bits, so a total over `rows_max` rows stays below 2**62.
    """

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
