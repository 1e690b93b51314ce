"""The query `train`: train this model on your rows and send it back."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

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
from fedmq.models.networks import Code
from fedmq.models.torch_model import Torch
from fedmq.tasks.task import Task

STEPS_MAX = 1_000_000
TORCH_COPIES = 8  # of parameters and layers, while PyTorch trains

Steps = Annotated[int, Meta(ge=0, le=STEPS_MAX)]
Moderate = Annotated[float, Meta(ge=0, le=1e6)]
LocalEpochs = Annotated[int, Meta(ge=1, le=10_000)]
LocalBatch = Annotated[int, Meta(ge=0, le=1_000_000)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
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


class TorchLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="torch"):
    """Local training of a PyTorch model, by its optimizers."""

    epochs: LocalEpochs = 1
    batch_size: LocalBatch = 32  # 0: all rows at once
    learning_rate: Moderate = 0.1
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: Momentum = 0.0  # of sgd
    weight_decay: Moderate = 0.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: bool = False

    def demand(self, task: Task, num_examples: int) -> Demand:
        """Return what training on so many rows needs: gradients, moments of the optimizer, a batch of layers."""
        parameters, widest = task.model.num_parameters, 1 if isinstance(task.model, Code) else task.model.widest
        batch = min(self.batch_size, num_examples) or num_examples
        numbers = TORCH_COPIES * (parameters + batch * widest) + num_examples * (task.model.inputs + 1)
        return Demand(8 * numbers, 3 * self.epochs * num_examples * parameters)


class Train(Query, frozen=True, tag="train"):
    """Train the model.

    Down: `model` (parameters,) float64, or float32 for a PyTorch model. Up: `model` likewise, the trained one; `losses`
    (1,) int64, in units of 2**-fraction_bits, and `correct` (1,) int64 of the model that was received.
    """

    partial: ClassVar[bool] = True
    sends: ClassVar[str] = "a model that was trained on the rows, and its summed loss"

    learner: EvolutionLearner | GradientLearner | OwnCode | TorchLearner

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Query`."""
        return self.learner.config if isinstance(self.learner, OwnCode) else msgspec.structs.asdict(self.learner)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        return {"model": ArrayBounds((task.model.num_parameters,), dtype_of(task))}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        return {
            "model": ArrayBounds((task.model.num_parameters,), dtype_of(task), -GENE_MAX, GENE_MAX),
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
        if isinstance(learner, TorchLearner):
            return learner.demand(task, num_examples)
        if isinstance(learner, OwnCode):
            return demand_of_scores(task, 1, num_examples)
        scored = demand_of_scores(task, 1, num_examples, times=2 * learner.steps + 1)
        return scored._replace(memory_bytes=scored.memory_bytes + 16 * num_examples * (task.model.inputs + 1))


def dtype_of(task: Task) -> type[np.generic]:
    """Return the dtype of a model's parameters in messages."""
    return np.float32 if isinstance(task.model, Torch) else np.float64
