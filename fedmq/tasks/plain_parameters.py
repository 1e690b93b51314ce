"""Parameters of a task in Python as data: what a script gives to `pygad.GA` may be written as it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.gene_constraints import text_of_function
from fedmq.models.genes import GENE_TYPES

_NAMES = {kind: name for name, kind in GENE_TYPES.items()}
FUNCTIONS = ("fitness_func", "on_generation")  # a file defines them under these names


def plain_parameters(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of an algorithm without types, ranges, arrays and lambdas.

    A type becomes its name, a range {"range": [start, stop, step]}, an array a list, a gene constraint its text.

    Raises:
        BadConfiguration: a function that is no gene constraint, or a constraint that is more than an expression.
    """
    for name in FUNCTIONS:
        if name in parameters:
            raise BadConfiguration(f"parameter {name}: expected a function {name} in the task's file, got an argument")
    return {name: _plain(value, name) for name, value in parameters.items()}


def _plain(value: Any, name: str) -> Any:
    if isinstance(value, type):
        if value not in _NAMES:
            known = ", ".join(_NAMES.values())
            raise BadConfiguration(f"parameter {name}: expected one of {known}, got {value.__name__}")
        return _NAMES[value]
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist(), name)
    if isinstance(value, Mapping):
        return {key: _plain(one, name) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one, name) for one in value]
    if callable(value):
        if name == "gene_constraint":
            return text_of_function(value)
        raise BadConfiguration(f"parameter {name}: expected a value, got a function: name one of PyGAD's operators")
    return value
