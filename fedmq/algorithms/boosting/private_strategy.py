"""Private `boosting`: trees with random splits, whose leaves are Newton steps along noisy sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import Plan, Total
from fedmq.algorithms.boosting.private_query import FRACTION_BITS, LeafSums, random_trees, with_leaves
from fedmq.algorithms.boosting.query import forest_model
from fedmq.algorithms.private.columns import target_unit
from fedmq.algorithms.private.query import Noise
from fedmq.models.arrays import Floats
from fedmq.models.trees import DEPTH_MAX, TREES_MAX
from fedmq.tasks.task import Task


class PrivateBoostingParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `boosting` in a private run."""

    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.3  # share of each tree that is added
    trees: Annotated[int, Meta(ge=1, le=TREES_MAX)] = 25  # rounds of boosting, at most those of the model
    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX)] = 3  # of each tree, at most that of the model
    penalty: Annotated[float, Meta(ge=0.0)] = 1.0  # half of it times each squared leaf is added to the loss


@dataclass(frozen=True, eq=False)
class LeavesState:
    """The state while a question is open."""

    task: Task
    seed: int
    noise: Noise
    leaves: Floats  # (trees, scores * 2**depth)


class PrivateBoosting:
    """The strategy of private `boosting`: see `fedmq.algorithms.private.strategy.PrivateAlgorithm`."""

    name = "boosting"
    Parameters = PrivateBoostingParameters

    def __init__(self, parameters: PrivateBoostingParameters) -> None:
        self.parameters = parameters

    def questions(self, task: Task, rounds: int) -> int:
        return min(self.parameters.trees, forest_model(task.model, "algorithm boosting").trees, rounds)

    def init(self, task: Task, seed: int, noise: Noise) -> LeavesState:
        model = forest_model(task.model, "algorithm boosting")
        return LeavesState(task, seed, noise, np.empty((0, model.scores << self._depth(task))))

    def ask(self, state: LeavesState) -> Plan:
        center, unit = target_unit(state.task)
        query = LeafSums(noise=state.noise, seed=state.seed, depth=self._depth(state.task), center=center, unit=unit)
        return Plan(query, {"leaves": state.leaves})

    def close(self, state: LeavesState, total: Total, _late: Mapping[int, Total]) -> LeavesState:
        """Add a tree. The noise of the Hessians is a penalty, so that no leaf divides by noise alone."""
        query = self.ask(state).query
        assert isinstance(query, LeafSums)
        noise = query.deviations(state.task, {"leaves": state.leaves.shape}, total.trainers)
        gradients, hessians = (
            np.ldexp(total.arrays[name].astype(np.float64), -FRACTION_BITS) for name in ("gradients", "hessians")
        )
        penalty = self.parameters.penalty + np.ldexp(noise["hessians"], -FRACTION_BITS)
        steps = -self.parameters.learning_rate * gradients / (np.maximum(hessians, 0.0) + penalty)
        return replace(state, leaves=np.concatenate([state.leaves, steps.reshape(1, -1)]))

    def model_parameters(self, state: LeavesState) -> Floats:
        """Return the parameters of the task's model."""
        task, depth = state.task, self._depth(state.task)
        model, (center, unit) = forest_model(task.model, "algorithm boosting"), target_unit(task)
        parameters = np.zeros(model.num_parameters)
        forest, start = model.split_parameters(parameters)
        start[:] = center
        for number, values in enumerate(state.leaves):
            trees = random_trees(task, state.seed, number, depth)
            forest[number] = with_leaves(model, trees, values.reshape(model.scores, -1) * unit, depth)
        return parameters

    def _depth(self, task: Task) -> int:
        return min(self.parameters.depth, forest_model(task.model, "algorithm boosting").depth)
