"""Private `es`: slopes along random directions, each row's shortened; the optimizer is that of `es`.

The directions span a part of the parameters, so this is DP-SGD (Abadi et al. 2016, "Deep learning with differential
privacy", CCS) on all rows, with gradients projected on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from fedmq.algorithms.base import Plan, Total
from fedmq.algorithms.es.movement import AdamW, Decay, Memory, Movement, Rate
from fedmq.algorithms.es.private_query import Clip, ClippedSlopes, network
from fedmq.algorithms.es.query import Pairs, Sigma
from fedmq.algorithms.private.columns import target_unit
from fedmq.algorithms.private.query import Noise
from fedmq.exact.directions import size_for
from fedmq.models.arrays import Floats
from fedmq.models.layers import initial_parameters
from fedmq.models.standardized import Standard
from fedmq.tasks.task import Task


class PrivateEvolutionStrategyParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `es` in a private run."""

    pairs: Pairs = 128  # of candidates in a round
    sigma: Sigma = 0.05  # how far a candidate is from the weights, in each of them
    learning_rate: Rate = 0.1
    weight_decay: Decay = 0.1  # weights shrink by this times the learning rate
    average: Memory = 0.9  # memory of the average, at most
    clip: Clip = 1.0  # about the length of a row's gradient


@dataclass(frozen=True, eq=False)
class PrivateSlopesState:
    """The state while question `number` is open."""

    task: Task
    seed: int
    noise: Noise
    movement: Movement
    number: int = 1


class PrivateEvolutionStrategy:
    """The strategy of private `es`: see `fedmq.algorithms.private.strategy.PrivateAlgorithm`."""

    name = "es"
    Parameters = PrivateEvolutionStrategyParameters

    def __init__(self, parameters: PrivateEvolutionStrategyParameters) -> None:
        self.parameters = parameters

    def questions(self, _task: Task, rounds: int) -> int:
        return rounds

    def init(self, task: Task, seed: int, noise: Noise) -> PrivateSlopesState:
        weights = initial_parameters(network(task.model, "algorithm es"), seed, "es", "start", 0)
        return PrivateSlopesState(task, seed, noise, Movement.at_rest(weights[None]))

    def ask(self, state: PrivateSlopesState) -> Plan:
        chosen, (center, unit) = self.parameters, target_unit(state.task)
        query = ClippedSlopes(
            noise=state.noise,
            seed=state.seed,
            number=state.number,
            pairs=min(chosen.pairs, size_for(state.task.model.num_parameters)),
            sigma=chosen.sigma,
            clip=chosen.clip,
            center=center,
            unit=unit,
        )
        return Plan(query, {"weights": state.movement.weights[0]})

    def close(self, state: PrivateSlopesState, total: Total, _late: Mapping[int, Total]) -> PrivateSlopesState:
        """Move the weights along the slopes."""
        chosen = self.parameters
        optimizer = AdamW(chosen.learning_rate, chosen.weight_decay, chosen.average)
        found = {state.number: total.arrays["slopes"]}
        movement = optimizer.moved(state.movement, found, state.seed, state.number)
        return replace(state, movement=movement, number=state.number + 1)

    def model_parameters(self, state: PrivateSlopesState) -> Floats:
        """Return the parameters of the task's model: the average of the weights."""
        task, (center, unit) = state.task, target_unit(state.task)
        inputs = task.model.inputs
        standard = Standard(np.zeros(inputs), np.ones(inputs), center, unit)
        return standard.raw(network(task.model, "algorithm es"), state.movement.average[0].copy())
