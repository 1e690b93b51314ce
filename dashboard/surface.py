"""The decision surface of a model with two inputs: its output at each point of a grid."""

from typing import Any

import numpy as np

from fedmq.models.arrays import Floating, Floats
from fedmq.models.networks import Model
from fedmq.models.trained_model import TrainedModel
from fedmq.tasks.builtin import TASK_NAMES
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task, task_rows

SIZE = 48  # cells along each side
POINTS_MAX = 256  # rows drawn on it
MARGIN = 0.5  # on each side, as a share of the extent of the rows
BOX = (-2.0, 2.0)  # where the rows are unknown


def surface_of(model: Model, parameters: Floats, task: str, output_scale: float = 1.0) -> dict[str, Any]:
    """Return the surface of a model with these parameters (num_parameters,), and the rows of the task, for the page."""
    trained = TrainedModel(model, parameters, task, output_scale)
    rows = _rows(model, task)
    low, high = _box(rows)
    values, label = _values(trained, _grid(low, high))
    points = [] if rows is None else np.column_stack([rows.inputs, rows.targets])[:POINTS_MAX].tolist()
    return {
        "size": SIZE,
        "x": [low[0], high[0]],
        "y": [low[1], high[1]],
        "what": "value" if label is None else "probability",
        "class": label,
        "low": 0.0 if label is not None else float(values.min()),
        "high": 1.0 if label is not None else float(values.max()),
        "values": [float(f"{value:.4g}") for value in values],
        "points": points,
    }


def _grid(low: list[float], high: list[float]) -> Floats:
    """Return the centers of the cells, (SIZE * SIZE, 2); x changes fastest."""
    steps = (np.arange(SIZE) + 0.5) / SIZE
    x, y = (low[axis] + steps * (high[axis] - low[axis]) for axis in (0, 1))
    grid: Floats = np.column_stack([np.tile(x, SIZE), np.repeat(y, SIZE)])
    return grid


def _values(trained: TrainedModel, grid: Floats) -> tuple[Floats, int | None]:
    """Return a number for each point, and the class if the number is its probability, else None."""
    network = trained.network()
    with np.errstate(over="ignore", invalid="ignore"):
        if network.output == "softmax":
            label = 1 if network.outputs == 2 else 0
            values: Floating = trained.probabilities(grid)[:, label]
            empty = 1.0 / network.outputs
        else:
            label, empty = None, 0.0
            values = network.forward(trained.parameters[None, :], grid)[0, :, 0] * trained.output_scale
    finite: Floats = np.nan_to_num(values, nan=empty, posinf=1e12, neginf=-1e12).astype(np.float64, copy=False)
    return finite, label


def _rows(model: Model, task: str) -> Rows | None:
    """Return the rows of a built-in task, or None for another task."""
    if task not in TASK_NAMES or find_task(task).model != model:
        return None
    return task_rows(task, 1, 1)


def _box(rows: Rows | None) -> tuple[list[float], list[float]]:
    if rows is None:
        return [BOX[0]] * 2, [BOX[1]] * 2
    low, high = rows.inputs.min(axis=0), rows.inputs.max(axis=0)
    margin = MARGIN * np.maximum(high - low, 1e-9)
    return (low - margin).tolist(), (high + margin).tolist()
