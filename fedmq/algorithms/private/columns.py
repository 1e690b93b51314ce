"""What the declared bounds of a schema say about columns: it takes the place of a survey, which would cost privacy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tasks.task import Task

RANGE = 4.0  # deviations between the bounds of a column: a guess that data take no part in
NAMES_SHOWN_MAX = 40  # in one line


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
        raise _without_bounds([column.name])
    return column.bounds


def _check_bounds(schema: Schema) -> None:
    """Check that each number and date has bounds, the target too.

    Raises:
        BadConfiguration: some have none; it names them all.
    """
    every: tuple[Column | Target, ...] = (*schema.columns, schema.target)
    if missing := [one.name for one in every if one.kind in ("number", "date") and one.bounds is None]:
        raise _without_bounds(missing)


def _without_bounds(names: Sequence[str]) -> BadConfiguration:
    shown = ", ".join(f"{name!r:.80}" for name in names[:NAMES_SHOWN_MAX])
    more = f" and {len(names) - NAMES_SHOWN_MAX} more" if len(names) > NAMES_SHOWN_MAX else ""
    return BadConfiguration(
        f"--epsilon: expected bounds of each column, got none of {shown}{more}: add bounds = [LOW, HIGH] to each in "
        "the task, from what is known without the data"
    )


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
    _check_bounds(schema)
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
        raise _without_bounds([target.name])
    low, high = (one / task.output_scale for one in target.bounds)
    return TargetUnit((low + high) * 0.5, (high - low) / RANGE)
