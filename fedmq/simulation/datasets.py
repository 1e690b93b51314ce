"""Data sets of scikit-learn by name, as tables, and the task that fits one. The only module here that imports it."""

import math

import numpy as np
from msgspec.structs import replace

from fedmq.errors import BadConfiguration
from fedmq.tables.table import Table, text
from fedmq.tasks.table_task import FileColumn, FileTarget, TaskFile

DATASETS = ("breast_cancer", "diabetes", "digits", "iris", "wine")
TARGET = "target"


def load_dataset(name: str) -> tuple[Table, TaskFile]:
    """Return one of `DATASETS` as a table, and a task file for its columns: all are numbers.

    The column `target` has the labels of the classes, or the numbers of `diabetes`.

    Raises:
        BadConfiguration: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise BadConfiguration(
            f"{name}: expected scikit-learn to be installed, which has the data: pip install 'fedmq[simulate]'"
        ) from error
    if name == "diabetes":  # its raw columns have 4 digits; other bits of them depend on the version of scikit-learn
        found = datasets.load_diabetes(scaled=False)
        found.data = np.round(found.data, 4)
    else:
        found = getattr(datasets, f"load_{name}")()
    names = [str(one) for one in found.feature_names]
    columns = {one: np.ascontiguousarray(found.data[:, place], np.float64) for place, one in enumerate(names)}
    if name == "diabetes":
        target = FileTarget(name=TARGET, kind="number", scale=100.0)
        values = found.target.astype(np.float64)
    else:
        labels = [str(one) for one in found.target_names]
        target = FileTarget(name=TARGET, kind="class", classes=tuple(labels))
        values = text([labels[one] for one in found.target.tolist()])
    rows = len(values)
    table = Table(name, (*names, TARGET), {**columns, TARGET: values}, rows, np.arange(1, rows + 1))
    task = TaskFile(name=name, target=target, columns={one: FileColumn("number") for one in names})
    return table, task


def with_bounds(file: TaskFile, table: object) -> TaskFile:
    """Return the task file of a data set with bounds of its columns: they are known, as the data are public."""
    assert isinstance(table, Table)
    columns = {name: replace(one, bounds=_bounds(table.columns[name])) for name, one in file.columns.items()}
    target = file.target
    if target.kind == "number":
        target = replace(target, bounds=_bounds(table.columns[target.name]))
    return replace(file, columns=columns, target=target)


def _bounds(values: np.ndarray) -> tuple[float, float]:
    """Return the smallest and the largest value, rounded outwards to two digits of their distance."""
    low, high = float(values.min()), float(values.max())
    if low == high:
        return low - 1.0, high + 1.0
    step = 10.0 ** (math.floor(math.log10(high - low)) - 1)
    return math.floor(low / step) * step, math.ceil(high / step) * step
