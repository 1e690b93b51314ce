"""The queries of `averaging`: train this model on your rows, or sum its gradient over them."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from msgspec import Meta

from fedmq.algorithms.base import (
    BLOCK_COPIES,
    CONTROL,
    SEARCH_COPIES,
    AdditiveQuery,
    ArrayBounds,
    Demand,
    Generations,
    Mutation,
    Population,
    Query,
    Shapes,
    demand_of_scores,
)
from fedmq.algorithms.evaluation.exact_scores import ROW_LOSS_BITS
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.algorithms.standardization import Components, network_for, standard_bounds
from fedmq.errors import BadConfiguration, Rejected
from fedmq.models.exact_gradient import ROW_BITS
from fedmq.models.layers import layer_sizes, layered
from fedmq.models.networks import MLP, Code, Linear
from fedmq.models.torch_model import Torch
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.tasks.task import Task

EPOCHS_MAX = 10_000
BATCH_SIZE_MAX = 1_000_000
CHANGE_BITS, CHANGE_REACH = 26, 10  # a parameter's change: its fraction bits; at most 2**reach for a row
DESCENT_LOSS_BITS = 20  # a row's loss counts at most 2**20 when it is summed beside changes
DESCENT_COPIES = 8  # of the parameters, while a learner descends
BLOCK_ROWS = 2048  # whose exact gradient a learner computes at once
TORCH_COPIES = 8  # of parameters and layers, while PyTorch trains

Epochs = Annotated[int, Meta(ge=1, le=EPOCHS_MAX)]
BatchSize = Annotated[int, Meta(ge=0, le=BATCH_SIZE_MAX)]
LearningRate = Annotated[float, Meta(gt=0, le=1e6)]
Moderate = Annotated[float, Meta(ge=0, le=1e6)]
Momentum = Annotated[float, Meta(ge=0, lt=1)]
Unit = Annotated[int, Meta(ge=-1000, le=1000)]
Setting = bool | int | float | Annotated[str, Meta(max_length=200)]
Config = Annotated[dict[Annotated[str, Meta(min_length=1, max_length=32)], Setting], Meta(max_length=32)]


class EvolutionLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="evolution"):
    """Local training by a genetic algorithm around the model that was received."""

    generations: Generations = 20
    population: Population = 20
    spread: Moderate = 0.5  # standard deviation of the first population's parameters
    mutation: Mutation = (-1.5, 0.3)


class GradientLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="gradient"):
    """Local training by stochastic gradient descent on the mean loss of batches, in local epochs."""

    epochs: Epochs = 5
    batch_size: BatchSize = 20  # 0: all rows at once
    learning_rate: LearningRate = 0.1
    l2: Moderate = 0.0

    def demand(self, task: Task, num_examples: int) -> Demand:
        """Return what training on so many rows needs, and the score of the model before it."""
        scored, parameters = demand_of_scores(task, 1, num_examples), task.model.num_parameters
        inputs, *units = layer_sizes(layered(task.model, "learner=gradient"))
        batch, is_whole = min(self.batch_size, num_examples) or num_examples, not 0 < self.batch_size < num_examples
        numbers = DESCENT_COPIES * parameters + num_examples + batch * (3 * sum(units) + (not is_whole) * inputs)
        return Demand(
            scored.memory_bytes + 8 * numbers, scored.operations + 3 * self.epochs * num_examples * parameters
        )

    def check(self, task: Task) -> None:
        """Check that the model has gradients.

        Raises:
            Rejected: it has none.
        """
        try:
            layered(task.model, "learner=gradient")
        except BadConfiguration as error:
            raise Rejected("values", str(error)) from error


class OwnCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="own"):
    """Local training by code of each site: `fedmq trainer --learner FILE.py:fit`."""

    config: Config = {}


class TorchLearner(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="torch"):
    """Local training of a PyTorch model, by its optimizers."""

    epochs: Epochs = 1
    batch_size: BatchSize = 32  # 0: all rows at once
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
        """See `Query`: a population around the model, or gradient descent from it."""
        learner = self.learner
        if isinstance(learner, GradientLearner | TorchLearner):
            return learner.demand(task, num_examples)
        if isinstance(learner, OwnCode):
            return demand_of_scores(task, 1, num_examples)
        times = learner.generations + 1
        return demand_of_scores(task, learner.population, num_examples, times=times, copies=SEARCH_COPIES + 1)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        if isinstance(self.learner, GradientLearner):
            self.learner.check(task)


class Descend(AdditiveQuery, frozen=True, tag="descend"):
    """Train the model by gradients on standardized rows, and send how far it moved, times the rows.

    Down: `model` (parameters,) float64, for standardized rows; `standard` and `axes` as in `slopes`; with `scaffold`
    also `control` (parameters,) float64, the mean gradient over all rows as it is known. Up: `change` (parameters,)
    int64, the rows times the change, in units of 2**-CHANGE_BITS; with `scaffold` likewise `control`, the change of the
    trainer's own mean gradient, which it adds up; `losses` (1,) int64, in units of 2**-fraction_bits, times 4**unit for
    squared errors, and `correct` (1,) int64 of the model that was received.
    """

    partial: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    sends: ClassVar[str] = "the change of a model that was trained on the rows, and its summed loss"

    learner: GradientLearner = GradientLearner()
    scaffold: bool = False
    unit: Unit = 0
    components: Components = 0
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << 26

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `Query`."""
        return msgspec.structs.asdict(self.learner)

    @property
    def row_bits(self) -> int:
        return max(CHANGE_BITS + CHANGE_REACH, self.fraction_bits + DESCENT_LOSS_BITS)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        names, size = ("model", CONTROL) if self.scaffold else ("model",), _size(task, self.components)
        return {**dict.fromkeys(names, ArrayBounds((size,))), **standard_bounds(task.model, self.components)}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        most = num_examples << (CHANGE_BITS + CHANGE_REACH)
        names = ("change", CONTROL) if self.scaffold else ("change",)
        moved = dict.fromkeys(names, ArrayBounds((_size(task, self.components),), np.int64, -most, most))
        return {
            **moved,
            "losses": ArrayBounds((1,), np.int64, 0, num_examples << (self.fraction_bits + DESCENT_LOSS_BITS)),
            "correct": ArrayBounds((1,), np.int64, 0, num_examples),
        }

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: the model that was received."""
        return 1

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        """See `Query`: standardized rows are a copy."""
        found = self.learner.demand(task, num_examples)
        return found._replace(memory_bytes=found.memory_bytes + 16 * num_examples * (task.model.inputs + 1))

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        self.learner.check(task)


class SumGradient(AdditiveQuery, frozen=True, tag="gradient"):
    """Sum the gradient over standardized rows, each rounded to integers: see `fedmq.models.exact_gradient`.

    Down: `model` (parameters,) float64, for standardized rows; `standard` and `axes` as in `slopes`. Up: `gradient`
    (parameters,) int64, in units of 2**-gradient_bits; `loss` (1,) int64, in units of 2**-fraction_bits, times 4**unit
    for squared errors, at most 2**ROW_LOSS_BITS for a row; `correct` (1,) int64.
    """

    partial: ClassVar[bool] = True
    sends: ClassVar[str] = "the gradient of one model, summed over the rows, and its summed loss"

    unit: Unit = 0
    components: Components = 0
    fraction_bits: Annotated[int, Meta(ge=0, le=FRACTION_BITS_MAX)] = 24
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = 1 << 20

    @property
    def row_bits(self) -> int:
        return max(ROW_BITS, self.fraction_bits + ROW_LOSS_BITS)

    def arrays(self, task: Task) -> Mapping[str, ArrayBounds]:
        size = _size(task, self.components)
        return {"model": ArrayBounds((size,)), **standard_bounds(task.model, self.components)}

    def answer(self, task: Task, _shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        most = num_examples << ROW_BITS
        return {
            "gradient": ArrayBounds((_size(task, self.components),), np.int64, -most, most),
            "loss": ArrayBounds((1,), np.int64, 0, num_examples << (self.fraction_bits + ROW_LOSS_BITS)),
            "correct": ArrayBounds((1,), np.int64, 0, num_examples),
        }

    def evaluations(self, _shapes: Shapes) -> int:
        """See `Query`: one model."""
        return 1

    def demand(self, task: Task, _shapes: Shapes, num_examples: int) -> Demand:
        parameters = task.model.num_parameters
        units = 2 * task.model.inputs + sum(layer_sizes(layered(task.model, "method=fedsgd")))
        numbers = DESCENT_COPIES * parameters + BLOCK_COPIES * min(BLOCK_ROWS, num_examples) * units
        return Demand(8 * numbers, 3 * num_examples * parameters)

    def check(self, task: Task, shapes: Shapes) -> None:
        super().check(task, shapes)
        if not isinstance(task.model, MLP | Linear):
            raise Rejected("values", f"method=fedsgd: expected a model MLP or Linear, got {type(task.model).__name__}")


def _size(task: Task, components: int) -> int:
    return network_for(task.model, components).num_parameters


def dtype_of(task: Task) -> type[np.generic]:
    """Return the dtype of a model's parameters in messages."""
    return np.float32 if isinstance(task.model, Torch) else np.float64
