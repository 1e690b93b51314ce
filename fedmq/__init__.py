"""fedmq: federated learning over a message queue.

    Models     MLP, Linear, LogLinear, Fourier, Trees, Code, torch_model, torch_module, TrainedModel, load_model
    Tasks      Task, Rows, Schema, Column, Target, find_task
    Runs       simulate, sweep, train, Run
    Errors     FedmqError and its leaves, in `fedmq.errors`
    Testing    the in-memory network and the virtual clock, in `fedmq.testing`

Importing this package loads nothing else: each name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmq.errors import FedmqError
    from fedmq.models.exports.pygad_layers import pygad_network
    from fedmq.models.fourier import Fourier
    from fedmq.models.networks import MLP, Code, Linear, LogLinear
    from fedmq.models.torch_modules import torch_model, torch_module
    from fedmq.models.trained_model import TrainedModel, load_model
    from fedmq.models.trees import Trees
    from fedmq.runs.pygad_run import pygad_instance
    from fedmq.simulation.run import Run
    from fedmq.simulation.simulate import simulate
    from fedmq.simulation.sweep import sweep
    from fedmq.simulation.train import train
    from fedmq.tables.schema import Column, Schema, Target
    from fedmq.tasks.task import Rows, Task
    from fedmq.tasks.task_file import find_task

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "Code",
    "Column",
    "FedmqError",
    "Fourier",
    "Linear",
    "LogLinear",
    "Rows",
    "Run",
    "Schema",
    "Target",
    "Task",
    "TrainedModel",
    "Trees",
    "find_task",
    "load_model",
    "pygad_instance",
    "pygad_network",
    "simulate",
    "sweep",
    "torch_model",
    "torch_module",
    "train",
]

_HOMES = {
    "Code": "fedmq.models.networks",
    "Column": "fedmq.tables.schema",
    "FedmqError": "fedmq.errors",
    "Fourier": "fedmq.models.fourier",
    "Linear": "fedmq.models.networks",
    "LogLinear": "fedmq.models.networks",
    "MLP": "fedmq.models.networks",
    "Rows": "fedmq.tasks.task",
    "Run": "fedmq.simulation.run",
    "Schema": "fedmq.tables.schema",
    "Target": "fedmq.tables.schema",
    "Task": "fedmq.tasks.task",
    "TrainedModel": "fedmq.models.trained_model",
    "Trees": "fedmq.models.trees",
    "find_task": "fedmq.tasks.task_file",
    "load_model": "fedmq.models.trained_model",
    "pygad_instance": "fedmq.runs.pygad_run",
    "pygad_network": "fedmq.models.exports.pygad_layers",
    "simulate": "fedmq.simulation.simulate",
    "sweep": "fedmq.simulation.sweep",
    "train": "fedmq.simulation.train",
    "torch_model": "fedmq.models.torch_modules",
    "torch_module": "fedmq.models.torch_modules",
}


def __getattr__(name: str) -> object:
    if name == "Search":
        errors = import_module("fedmq.errors")
        raise errors.BadConfiguration(errors.SEARCH_IS_GONE)
    if name not in _HOMES:
        raise AttributeError(f"module 'fedmq' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
