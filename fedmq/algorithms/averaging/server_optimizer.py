"""The aggregator's step: how far the model moves for the mean change that the trainers ask for.

After Reddi et al. (2021), "Adaptive federated optimization": the mean change is a negative gradient. Elementwise
operations and integer powers by multiplication, so the bits are the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedmq.algorithms.averaging.parameters import AveragingParameters
from fedmq.models.arrays import Floats

ADAM_MEAN, ADAM_SQUARE, ADAM_EPSILON = 0.9, 0.99, 1e-8


@dataclass(frozen=True, eq=False)
class ServerOptimizer:
    """The moments of the changes, each (parameters,), or (0,) where they are not used."""

    mean: Floats
    square: Floats
    mean_weight: float = 1.0  # 0.9**steps, and
    square_weight: float = 1.0  # 0.99**steps: the shares of the zeros at the start

    @classmethod
    def begin(cls, parameters: AveragingParameters, size: int) -> ServerOptimizer:
        """Return the moments before the first step."""
        adam = parameters.server_optimizer == "adam"
        has_mean = adam or parameters.server_momentum > 0.0
        return cls(np.zeros(size if has_mean else 0), np.zeros(size if adam else 0))

    def step(self, parameters: AveragingParameters, change: Floats) -> tuple[ServerOptimizer, Floats]:
        """Return the moments after a mean change (parameters,), and what is added to the model."""
        rate = parameters.server_learning_rate
        if parameters.server_optimizer == "sgd":
            if not self.mean.size:
                return self, rate * change
            mean = parameters.server_momentum * self.mean + change
            return ServerOptimizer(mean, self.square), rate * mean
        mean = ADAM_MEAN * self.mean + (1.0 - ADAM_MEAN) * change
        square = ADAM_SQUARE * self.square + (1.0 - ADAM_SQUARE) * (change * change)
        mean_weight, square_weight = self.mean_weight * ADAM_MEAN, self.square_weight * ADAM_SQUARE
        moved = rate * (mean / (1.0 - mean_weight)) / (np.sqrt(square / (1.0 - square_weight)) + ADAM_EPSILON)
        return ServerOptimizer(mean, square, mean_weight, square_weight), moved
