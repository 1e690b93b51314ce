"""The trainer's half of `averaging`: scores the model as it came, then trains it on the rows."""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.algorithms.averaging.query import (
    EvolutionLearner,
    GradientLearner,
    OwnCode,
    TorchLearner,
    Train,
    dtype_of,
)
from fedmq.algorithms.base import Assignment, Learner
from fedmq.algorithms.evolution.local_search import evolve
from fedmq.algorithms.inbox import GENE_MAX
from fedmq.errors import CodeRefused, WorkCancelled, WorkError
from fedmq.models.arrays import Floats
from fedmq.models.networks import Linear
from fedmq.models.torch_model import Torch
from fedmq.models.torch_modules import Descent, module_of


def train_model(query: Train, work: Assignment) -> dict[str, npt.NDArray[Any]]:
    """Score the model, then train it."""
    model = work.arrays["model"].astype(np.float64)
    losses, correct = work.score(model[None])
    if work.fit is not None:
        trained = np.clip(work.fit(model, work.generator), -GENE_MAX, GENE_MAX)
    elif isinstance(query.learner, TorchLearner):
        trained = _train_module(query.learner, model, work)
    elif isinstance(query.learner, OwnCode):
        raise CodeRefused(
            f"task {work.task.name} is trained by code of each site, got none: "
            "start this trainer with --learner FILE.py:fit"
        )
    elif isinstance(query.learner, GradientLearner):
        trained = _descend(query.learner, model, work)
    else:
        trained = _evolve_model(query.learner, model, work)
    return {"model": trained.astype(dtype_of(work.task)), "losses": losses, "correct": correct}


def _train_module(learner: TorchLearner, model: Floats, work: Assignment) -> Floats:
    """Return the model after PyTorch's optimizer."""
    if not isinstance(work.task.model, Torch):
        raise WorkError(f"expected a PyTorch model for learner=torch, got {type(work.task.model).__name__}")
    module = module_of(work.task.model)
    descent = Descent(**msgspec.structs.asdict(learner))
    trained = module.train(model, work.rows.inputs, work.rows.targets, descent, work.generator, work.cancelled)
    if not np.abs(trained).max() <= GENE_MAX:  # NaN neither
        raise _diverged(learner.learning_rate, work)
    return trained


def _evolve_model(learner: EvolutionLearner, model: Floats, work: Assignment) -> Floats:
    """Return the best candidate of a population that starts as a Gaussian cloud around the model, itself included."""
    cloud = work.generator.normal(0.0, learner.spread, (learner.population, len(model)))
    cloud[0] = 0.0
    population, fitness = evolve(
        model + cloud,
        lambda candidates: -work.score(candidates).losses,
        learner.generations,
        work.generator,
        mutation=learner.mutation,
        cancelled=work.cancelled,
    )
    best: Floats = population[np.argmax(fitness)].copy()
    return best


def _descend(learner: GradientLearner, model: Floats, work: Assignment) -> Floats:
    """Return the linear model after plain gradient descent on the summed squared error over all rows.

    The loss is sum((x w + b - y)^2), its gradient 2 X' (X w + b - y), with a column of ones in X for the bias.
    """
    task, rows = work.task, work.rows
    if not isinstance(task.model, Linear):
        raise WorkError(
            f"expected a linear model for the gradient learner, got {type(task.model).__name__} of task {task.name}: "
            "use the algorithm evolution, or averaging with learner=evolution"
        )
    inputs = np.column_stack([rows.inputs, np.ones(len(rows.inputs))])
    trained = model.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(learner.steps):
            if work.cancelled():
                raise WorkCancelled("gradient descent was cancelled: a newer round makes it needless")
            trained -= learner.learning_rate * 2.0 * (inputs.T @ (inputs @ trained - rows.targets))
    if not np.abs(trained).max() <= GENE_MAX:  # NaN neither; the aggregator accepts no larger weights
        raise _diverged(learner.learning_rate, work)
    return trained


def _diverged(rate: float, work: Assignment) -> WorkError:
    return WorkError(
        f"learning rate {rate:g} diverged after {work.round} rounds: "
        f"try {rate / 10:g} (--param learning_rate={rate / 10:g})"
    )


LEARNER = Learner(Train, train_model)
