"""What the declared bounds of a schema say about columns: it takes the place of a survey, which would cost privacy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema
from fedmq.tasks.task import Task

RANGE = 4.0  # deviations between the bounds of a column: a guess that data take no part in


class TargetUnit(NamedTuple):
    """How a target that is a value is standardized: the middle of its bounds, and a quarter of their distance."""

    center: float
    unit: float


def bounds_of(column: Column) -> tuple[float, float]:
    """Return the bounds of a column's encoded values.

    Raises:
        BadConfiguration: none are declared, and the kind of the column has none.
    """
    if column.kind == "boolean":
        return 0.0, 1.0
    if column.kind in ("category", "ordinal"):
        return 0.0, float(max(1, len(column.categories) - 1))
    if column.bounds is None:
        raise BadConfiguration(
            f"--epsilon: expected bounds of each column, got none of {column.name!r:.80}: add bounds = [LOW, HIGH] to "
            "it in the task, from what is known without the data"
        )
    return column.bounds


def schema_of(task: Task) -> Schema:
    """Return the schema of a task that fits private runs.

    Raises:
        BadConfiguration: it has none, or weights, offsets or counts.
    """
    schema = task.schema
    if schema is None:
        raise BadConfiguration(
            f"--epsilon: expected a task with a schema, whose columns have bounds, got {task.name} without: "
            "write one with fedmq new"
        )
    if schema.weight or schema.offset or schema.target.kind == "count":
        raise BadConfiguration(
            "--epsilon: expected classes or numbers without weights and offsets, got a task with some"
        )
    return schema


def preparation_of(task: Task) -> Preparation:
    """Return how the columns are prepared: the bounds become ±2, and what is missing the middle.

    Raises:
        BadConfiguration: a column or the target has no bounds.
    """
    schema = schema_of(task)
    bounds = np.array([bounds_of(column) for column in schema.columns])
    middle = (bounds[:, 0] + bounds[:, 1]) * 0.5
    return Preparation(schema, middle, (bounds[:, 1] - bounds[:, 0]) / RANGE, middle.copy())


def preparation_arrays(preparation: Preparation) -> dict[str, Floats]:
    """Return the arrays of a round that prepare the columns."""
    return {"column_shift": preparation.shift, "column_scale": preparation.scale, "column_fill": preparation.fill}


def target_unit(task: Task) -> TargetUnit:
    """Return how targets are standardized, in the task's scaled units; classes are not.

    Raises:
        BadConfiguration: the target is a number without bounds.
    """
    target = schema_of(task).target
    if target.kind == "class":
        return TargetUnit(0.0, 1.0)
    if target.bounds is None:
        raise BadConfiguration(
            f"--epsilon: expected bounds of the target {target.name!r:.80}, got none: add bounds = [LOW, HIGH] to it"
        )
    low, high = (one / task.output_scale for one in target.bounds)
    return TargetUnit((low + high) * 0.5, (high - low) / RANGE)
