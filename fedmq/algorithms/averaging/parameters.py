"""The parameters of `averaging`, and which of them go together."""

from typing import Literal

import msgspec

from fedmq.algorithms.averaging.query import (
    BatchSize,
    Config,
    Epochs,
    EvolutionLearner,
    GradientLearner,
    LearningRate,
    Moderate,
    Momentum,
    OwnCode,
    TorchLearner,
)
from fedmq.algorithms.base import Generations, Mutation, Population
from fedmq.algorithms.standardization import Components
from fedmq.errors import BadConfiguration


class AveragingParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of `averaging`.

    `method`, `l2`, `standardize`, `components` and those of the server are of the learner `gradient`; `epochs`,
    `batch_size` and `learning_rate` of `torch`, too; `generations`, `population`, `spread` and `mutation` of
    `evolution`.

    Raises:
        BadConfiguration: the bounds of `mutation` are in the wrong order, or parameters do not go together.
    """

    learner: Literal["gradient", "evolution", "own", "torch"] = "gradient"
    method: Literal["fedavg", "scaffold", "fedsgd"] = "fedavg"
    epochs: Epochs = 5
    batch_size: BatchSize = 20  # 0: all rows of a trainer at once
    learning_rate: LearningRate = 0.1
    l2: Moderate = 0.0  # half of it times the squared parameters is added to the mean loss of a row
    standardize: bool = True  # rows by a survey of their columns, without a rule; False: take them as they are
    components: Components = 0  # principal axes that the network gets instead of all inputs; 0: all inputs
    server_optimizer: Literal["sgd", "adam"] = "sgd"
    server_learning_rate: LearningRate = 1.0
    server_momentum: Momentum = 0.0  # of sgd
    generations: Generations = 20
    population: Population = 20
    config: Config = {}  # for the own code of each trainer
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"  # from here to mixed_precision: of torch
    momentum: Momentum = 0.0  # of sgd
    weight_decay: Moderate = 0.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: bool = False  # bfloat16, where PyTorch's autocast uses it
    spread: Moderate = 0.5  # standard deviation of the first population's parameters
    mutation: Mutation = (-1.5, 0.3)
    rule: Literal["none", "clip", "trimmed-mean", "median", "krum"] = "none"  # against Byzantine trainers

    def __post_init__(self) -> None:
        if not self.mutation[0] <= self.mutation[1]:
            raise BadConfiguration(f"parameter mutation: expected [low, high], got {list(self.mutation)}")
        if self.components and not (self.is_additive and self.standardize):
            raise BadConfiguration(
                f"parameter components: expected 0 without standardize=True, learner=gradient and rule=none, "
                f"got {self.components}"
            )
        if self.is_additive:
            return
        what = f"rule={self.rule}" if self.learner == "gradient" else f"learner={self.learner}"
        if self.method == "scaffold":
            raise BadConfiguration(f"parameter method: expected fedavg or fedsgd with {what}, got scaffold")
        if (self.server_optimizer, self.server_learning_rate, self.server_momentum) != ("sgd", 1.0, 0.0):
            raise BadConfiguration(
                f"parameters of the server: expected their defaults with {what}, got "
                f"server_optimizer={self.server_optimizer}, server_learning_rate={self.server_learning_rate:g}, "
                f"server_momentum={self.server_momentum:g}: leave them out"
            )

    @property
    def is_additive(self) -> bool:
        """Whether the next model needs only the sum of the answers: no robust rule, and changes by gradients."""
        return self.learner == "gradient" and self.rule == "none"

    @property
    def gradient(self) -> GradientLearner:
        """The local training by gradients; of fedsgd with a robust rule, one step over all rows."""
        if self.method == "fedsgd":
            return GradientLearner(1, 0, self.learning_rate, self.l2)
        return GradientLearner(self.epochs, self.batch_size, self.learning_rate, self.l2)

    @property
    def local(self) -> EvolutionLearner | GradientLearner | OwnCode | TorchLearner:
        """The local training."""
        if self.learner == "torch":
            return TorchLearner(
                epochs=self.epochs,
                batch_size=self.batch_size,
                learning_rate=self.learning_rate,
                optimizer=self.optimizer,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                device=self.device,
                mixed_precision=self.mixed_precision,
            )
        if self.learner == "own":
            return OwnCode(self.config)
        if self.learner == "gradient":
            return self.gradient
        return EvolutionLearner(self.generations, self.population, self.spread, self.mutation)
