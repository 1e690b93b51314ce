"""The query `slopes`: the difference of the loss between the candidates of each pair."""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import (
    CANDIDATES_MAX,
    SUM_BITS_MAX,
    AdditiveQuery,
    ArrayBounds,
    Demand,
    Shapes,
    demand_of_scores,
)
from fedmq.algorithms.es.movement import AdamW
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED
from fedmq.algorithms.standardization import Components, network_for, standard_bounds
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.directions import KEPT_MAX, size_for
from fedmq.models.fourier import Fourier
from fedmq.models.layers import Layered
from fedmq.models.networks import Model
from fedmq.models.pairs import BLOCK_VALUES
from fedmq.models.trees import Trees
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.tasks.task import ROUNDS_MAX, Task

STARTS_MAX = 64
PAIR_BITS = 9  # a row's loss differs by less than 2**9: see `fedmq.models.pairs`
SCORED_PAIR_BITS = 30  # the same for a model that only its own code scores
BLOCK_COPIES = 16
MOVED_COPIES = 16  # of the weights: two movements, and what a step computes
SLOPE_MAX = 1 << SUM_BITS_MAX

Pairs = Annotated[int, Meta(ge=1, le=CANDIDATES_MAX // 2)]
Sigma = Annotated[float, Meta(gt=0.0, le=1.0)]


class Slopes(AdditiveQuery, frozen=True, tag="slopes"):
    """Sum the loss of weights + sigma e less that of weights - sigma e, for directions e that the seed gives.

    The directions are those of `fedmq.exact.directions`, for this seed and number. A network gets standardized rows,
    (x - shift) / scale and, of values, (y - center) / unit; other models get rows as they are. With `components`,
    standardized inputs are turned along so many axes, and the network has an input for each.

    Down: `standard` (2, inputs + 1) float64, the shifts and the center, the scales and the unit; with `components` also
    `axes` (inputs, components) int64, see `fedmq.models.standardized`. With an `optimizer` a `Movement`, float64:
    `weights` (starts, parameters), `moments` (3 * starts, parameters), none at rest, and `progress` (3,). Without it,
    `weights` (2 * starts, parameters) float32, first those to move, then those to score.

    A delta, with an `optimizer` only: `rounds` (n,) int64, and the new `slopes` (n * starts, pairs) int64 of each.

    Up, all int64: `slopes` (starts, pairs), in units of 2**-fraction_bits; `loss` (starts,), in units of 2**-loss_bits,
    times 4**unit for squared errors, and `correct` (starts,), of the weights to score.
    """

    partial: ClassVar[bool] = True
    sends: ClassVar[str] = "how the summed loss differs between the candidates of each pair"

    seed: Annotated[int, Meta(ge=0, le=2**63 - 1)] = 0  # of the run
    number: Annotated[int, Meta(ge=1, le=ROUNDS_MAX)] = 1
    pairs: Pairs = 240
    sigma: Sigma = 0.05
    unit: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    pair_bits: Annotated[int, Meta(ge=0, le=40)] = PAIR_BITS
    fraction_bits: Annotated[int, Meta(ge=0, le=FRACTION_BITS_MAX)] = 4
    loss_bits: Annotated[int, Meta(ge=0, le=FRACTION_BITS_MAX)] = 30
    components: Components = 0
    optimizer: AdamW | None = None  # which led to the weights

    @property
    def row_bits(self) -> int:
        return max(self.fraction_bits + self.pair_bits, self.loss_bits + ROW_LOSS_BITS)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        size = network_for(task.model, self.components).num_parameters
        standard = standard_bounds(task.model, self.components)
        if self.optimizer is None:
            return {"weights": ArrayBounds((-1, size), np.float32), **standard}
        rows, progress = ArrayBounds((-1, size)), ArrayBounds((3,), np.float64, 0.0, float(ROUNDS_MAX))
        return {"weights": rows, "moments": rows, "progress": progress, **standard}

    def delta(self, task: Task, shapes: Shapes) -> Mapping[str, ArrayBounds]:
        if self.optimizer is None:
            return {}
        rounds, slopes = ROUNDS_REMEMBERED, ROUNDS_REMEMBERED * self._starts(shapes)
        return {
            "rounds": ArrayBounds((rounds,), np.int64, 1, ROUNDS_MAX, rounds),
            "slopes": ArrayBounds((slopes, self.pairs), np.int64, -SLOPE_MAX, SLOPE_MAX, slopes),
        }

    def _starts(self, shapes: Shapes) -> int:
        rows = max(0, *shapes.get("weights", ())[:1], 0)
        return rows // 2 if self.optimizer is None else rows

    def answer(self, _task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        starts = self._starts(shapes)
        most = num_examples << (self.fraction_bits + self.pair_bits)
        loss_max = num_examples << (self.loss_bits + ROW_LOSS_BITS)
        return {
            "slopes": ArrayBounds((starts, self.pairs), np.int64, -most, most),
            "loss": ArrayBounds((starts,), np.int64, 0, loss_max),
            "correct": ArrayBounds((starts,), np.int64, 0, num_examples),
        }

    def evaluations(self, shapes: Shapes) -> int:
        """See `Query`: each pair counts, and each of the weights to score."""
        return 2 * max(1, self._starts(shapes)) * (self.pairs + 1)

    def demand(self, task: Task, shapes: Shapes, num_examples: int) -> Demand:
        starts, parameters = self._starts(shapes), shapes["weights"][1]
        moved = 8 * MOVED_COPIES * starts * parameters if self.optimizer else 0
        if not isinstance(task.model, Layered):
            scores = demand_of_scores(task, 2, num_examples, times=starts * (self.pairs + 1))
            return scores._replace(memory_bytes=scores.memory_bytes + moved)
        at_once = min(self.pairs * parameters, KEPT_MAX) + 8 * parameters
        block = BLOCK_COPIES * max(BLOCK_VALUES, num_examples and 8192 * task.model.widest)
        inputs = 3 * num_examples * task.model.inputs
        memory = moved + 8 * (at_once + block + inputs)
        return Demand(memory, 2 * starts * self.pairs * parameters * max(1, num_examples))

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        try:
            check_movable(task.model, "slopes")
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error
        rows, starts = shapes["weights"][0], self._starts(shapes)
        if (self.optimizer is None and rows % 2) or not 1 <= starts <= STARTS_MAX:
            raise Rejected("values", f"expected weights of 1 to {STARTS_MAX} starts, got {rows} rows")
        if self.optimizer is not None and (moments := shapes["moments"][0]) not in (0, 3 * starts):
            raise Rejected("values", f"expected {3 * starts} rows of moments, or none, got {moments}")
        if self.pairs > (most := size_for(shapes["weights"][1])):
            raise Rejected("values", f"expected at most {most} pairs, got {self.pairs}")


def check_movable(model: Model, about: str) -> None:
    """Check that a model can be moved along directions.

    Raises:
        BadConfiguration: its parameters are no weights; `about` names what needs it.
    """
    if isinstance(model, Trees | Fourier):
        use = "boosting" if isinstance(model, Trees) else "ridge"
        raise BadConfiguration(f"{about}: expected a network or a model that is code, got {model}: use {use}")
