"""A run that starts from an earlier model: the state of its first round."""

from __future__ import annotations

from typing import Any

import msgspec

from fedmq.algorithms.base import Strategy
from fedmq.errors import BadConfiguration
from fedmq.models.networks import Model
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import Trees
from fedmq.tasks.task import Task


def start_state(strategy: Strategy[Any], task: Task, seed: int, trained: TrainedModel) -> Any:
    """Return the state of round 1 that begins with a trained model.

    A strategy that can has a method `starting_at(state, trained)`, which returns the state of `init` with this model.

    Raises:
        BadConfiguration: the algorithm has no starting point, or the model is one of another task.
    """
    for what, own, other in (
        ("model", task.model, _of_size(trained.model, task.model)),
        ("schema", task.schema, trained.schema),
        ("output_scale", task.output_scale, trained.output_scale),
    ):
        if own != other:
            shown = "another" if what == "schema" else str(other)
            expected = f"the {what} of task {task.name}" + (f", {own}" if what != "schema" else "")
            raise BadConfiguration(f"--from: expected a model with {expected}, got {shown}: start without it")
    return starting_at(strategy, strategy.init(task, seed), trained)


def _of_size(model: Model, wanted: Model) -> Model:
    """Return the model; a forest with as many trees as the wanted one."""
    if isinstance(model, Trees) and isinstance(wanted, Trees):
        return msgspec.structs.replace(model, trees=wanted.trees)
    return model


def starting_at(strategy: Any, state: Any, trained: TrainedModel) -> Any:
    """Return a state of `init` with a trained model as its start.

    Raises:
        BadConfiguration: the algorithm has no starting point.
    """
    method = getattr(strategy, "starting_at", None)
    if method is None:
        raise BadConfiguration(
            f"--from: expected an algorithm that starts from a model, got {strategy.name}, whose model does not depend "
            "on a start: leave it out"
        )
    return method(state, trained)
