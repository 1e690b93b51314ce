"""How weights move from round to round: one function for the aggregator and for the trainers that follow it.

All operations are elementwise, or products of integers, so both sides get the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmq.algorithms.inbox import GENE_MAX
from fedmq.errors import WorkCancelled
from fedmq.exact.directions import KEPT_MAX, directions
from fedmq.exact.integers import check_products
from fedmq.models.arrays import Floats, Integers

DECAY_1, DECAY_2, TINY = 0.9, 0.99, 1e-8  # of Adam
WARM_UP = 4  # the memory of the average is at most steps / (steps + WARM_UP): about the newest fifth of the run
PRODUCT_BITS = 44  # of a total times a sign, summed over many pairs in float64

Rate = Annotated[float, Meta(gt=0.0, le=10.0)]
Decay = Annotated[float, Meta(ge=0.0, le=10.0)]
Memory = Annotated[float, Meta(ge=0.0, lt=1.0)]


@dataclass(frozen=True, eq=False)
class Movement:
    """Weights and what Adam knows about them, each (starts, parameters) float64, for standardized rows."""

    weights: Floats
    average: Floats
    mean: Floats
    square: Floats
    steps: int = 0
    power_1: float = 1.0  # DECAY_1**steps, by repeated multiplication
    power_2: float = 1.0

    @classmethod
    def at_rest(cls, weights: Floats) -> Movement:
        """Return the movement before the first step."""
        zeros = np.zeros_like(weights)
        return cls(weights, weights, zeros, zeros)

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Movement:
        """Return the movement in the arrays of a round."""
        weights, moments = arrays["weights"], arrays["moments"]
        if not len(moments):
            return cls.at_rest(weights)
        average, mean, square = np.split(moments, 3)
        steps, power_1, power_2 = arrays["progress"].tolist()
        return cls(weights, average, mean, square, int(steps), power_1, power_2)

    @property
    def arrays(self) -> dict[str, Floats]:
        """The movement as a round carries it; at rest, the weights are all of it."""
        moments = [self.average, self.mean, self.square] if self.steps else [self.weights[:0]]
        return {
            "weights": self.weights,
            "moments": np.concatenate(moments),
            "progress": np.array([self.steps, self.power_1, self.power_2]),
        }

    @property
    def nbytes_max(self) -> int:
        """The bytes of these arrays after the first step."""
        return 4 * self.weights.nbytes

    @property
    def published(self) -> npt.NDArray[np.float32]:
        """The weights to move, then their averages to score, float32: the model that is deployed has these numbers."""
        return np.concatenate([self.weights, self.average]).astype(np.float32)


class AdamW(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """AdamW along slopes (Loshchilov and Hutter 2019), with an average of the weights (Polyak and Juditsky 1992).

    Slopes are divided by their root mean square, so the step does not depend on the scale of the loss or the number of
    trainers. Slopes of an earlier round move the weights along its directions, with weight 1 / (1 + staleness).
    """

    learning_rate: Rate
    weight_decay: Decay
    average: Memory

    def moved(
        self,
        before: Movement,
        found: Mapping[int, Integers],
        seed: int,
        number: int,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Movement:
        """Return the weights after round `number`; `found` are slopes (starts, pairs) by round, late ones, too.

        Raises:
            WorkCancelled: `cancelled()` is true.
        """
        gradient, squares = np.zeros(before.weights.shape), np.zeros(len(before.weights))
        for of_round, slopes in sorted(found.items()):
            if not slopes.any():
                continue
            weight, count = 1.0 / (1 + number - of_round), slopes.shape[1]
            gradient += _along(slopes, before.weights.shape[1], seed, of_round, cancelled) * (weight / count)
            squares += [weight * weight * (sum(int(one) ** 2 for one in row) / count) for row in slopes]
        if not squares.any():
            return before  # no trainer has answered, or the loss is flat
        gradient /= np.sqrt(np.where(squares > 0.0, squares, 1.0))[:, None]
        rate, steps = self.learning_rate, before.steps + 1
        power_1, power_2 = before.power_1 * DECAY_1, before.power_2 * DECAY_2
        mean = DECAY_1 * before.mean + (1.0 - DECAY_1) * gradient
        square = DECAY_2 * before.square + (1.0 - DECAY_2) * gradient * gradient
        weights = before.weights * (1.0 - rate * self.weight_decay)
        weights -= rate * (mean / (1.0 - power_1)) / (np.sqrt(square / (1.0 - power_2)) + TINY)
        weights = np.clip(weights, -GENE_MAX, GENE_MAX)
        memory = min(self.average, steps / (steps + WARM_UP))
        average = memory * before.average + (1.0 - memory) * weights
        return Movement(weights, average, mean, square, steps, power_1, power_2)


def _along(slopes: Integers, parameters: int, seed: int, number: int, cancelled: Callable[[], bool]) -> Floats:
    """Return the sum of slope times direction, (starts, parameters) float64: exact, as long as the slopes are small."""
    check_products()
    drawn = directions(slopes.shape[1], parameters, seed, number)
    excess = max(0, max(int(slopes.max()), -int(slopes.min())).bit_length() - PRODUCT_BITS)
    factors = (slopes >> excess).astype(np.float64)
    total = np.zeros((len(slopes), parameters))
    at_once = max(1, KEPT_MAX // parameters)
    for start in range(0, drawn.count, at_once):
        if cancelled():
            raise WorkCancelled("the step was cancelled: a newer round makes it needless")
        block = drawn.block(start, start + at_once).astype(np.float64)
        total += factors[:, start : start + at_once] @ block
    return total * 2.0**excess
