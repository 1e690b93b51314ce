"""The query `train`: train this model on your rows and send it back."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import (
    SEARCH_COPIES,
    ArrayBounds,
    Demand,
    Generations,
    Mutation,
    Population,
    Query,
    Shapes,
    demand_of_scores,
)
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.tasks.task import Task

STEPS_MAX = 1_000_000

Steps = Annotated[int, Meta(ge=0, le=STEPS_MAX)]
Moderate = Annotated[float, Meta(ge=0, le=1e6)]
Setting = bool | int | float | Annotated[str, Meta(max_length=200)]
Config = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=32)], Setting], Meta(max_length=32)]


class EvolutionLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="evolution"):
    """Local training by a genetic algorithm around the model that was received."""

    generations: Generations = 20
    population: Population = 20
    spread: Moderate = 0.5  # standard deviation of the first population's parameters
    mutation: Mutation = (-1.5, 0.3)


class GradientLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="gradient"):
    """Local training by plain gradient descent on the summed loss; for linear models."""

    steps: Steps = 1
    learning_rate: Moderate = 0.1


class OwnCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="own"):
    """Local training by code of each site: `fedmq trainer --learner FILE.py:fit`."""

    config: Config = {}


class Train(Query, frozen=True, tag="train"):
    """Train the model.

    Down: `model` (parameters,) float64. Up: `model` (parameters,) float64, the trained one; `losses` (1,) int64, in
    units of 2**-fraction_bits, and `correct` (1,) int64 of the model that was received.
    """

    sends: ClassVar[str] = "a model that was trained on the rows, and its summed loss"

    learner: EvolutionLearner | GradientLearner | OwnCode

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Query`."""
        return self.learner.config if isinstance(self.learner, OwnCode) else msgspec.structs.asdict(self.learner)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"model": ArrayBounds((task.model.num_parameters,))}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        return {
            "model": ArrayBounds((task.model.num_parameters,), np.float64, -GENE_MAX, GENE_MAX),
            "losses": ArrayBounds((1,), np.float64, 0),
            "correct": ArrayBounds((1,), np.int64, 0, num_examples),
        }

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: the model that was received."""
        return 1

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        """See `Query`: a population around the model, or gradient steps over all rows with a column of ones."""
        learner = self.learner
        if isinstance(learner, EvolutionLearner):
            times = learner.generations + 1
            return demand_of_scores(task, learner.population, num_examples, times=times, copies=SEARCH_COPIES + 1)
        if isinstance(learner, OwnCode):
            return demand_of_scores(task, 1, num_examples)
        scored = demand_of_scores(task, 1, num_examples, times=2 * learner.steps + 1)
        return scored._replace(memory_bytes=scored.memory_bytes + 16 * num_examples * (task.model.inputs + 1))
