"""What a simulation trains on: the task, and the rows of each virtual trainer, from what a user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.data.positional import positional
from fedmq.data.readers import load_data
from fedmq.errors import BadConfiguration
from fedmq.exact.integers import Integers
from fedmq.models.networks import Code
from fedmq.names import name_of_file, names_of_sources, own_names
from fedmq.protocol.run_config import SECURE_TRAINERS_MIN
from fedmq.simulation.datasets import DATASETS, load_dataset, with_bounds
from fedmq.simulation.partition import DEFAULT, TARGET, column_of, partition
from fedmq.simulation.population import Data
from fedmq.tables.table import Table
from fedmq.tasks.builtin import TASK_NAMES
from fedmq.tasks.proposal import propose
from fedmq.tasks.row_views import chosen, count_rows
from fedmq.tasks.shipping import Shipped, ship
from fedmq.tasks.table_task import TaskFile, task_of
from fedmq.tasks.task import TRAINERS_MAX, Rows, Task, as_rows
from fedmq.tasks.task_file import run_task_file, task_rows

NAME_OF_DATA = "data"  # of a task that is proposed for data without a name


@dataclass(frozen=True)
class Scenario:
    """A task, with its code if it has some, and the rows of each virtual trainer, in the order of the roster."""

    shipped: Shipped
    data: Mapping[str, Data]

    @property
    def task(self) -> Task:
        return self.shipped.task

    def targets(self) -> dict[str, npt.NDArray[Any]]:
        """Return the targets of each trainer: labels, classes or numbers, (rows,)."""
        return {name: _values(one, self.task, TARGET) for name, one in self.data.items()}


def scenario(
    task: Task | str | None,
    data: object = None,
    *,
    algorithm: str | None = None,
    trainers: int | None = None,
    split: str = DEFAULT,
    seed: int = 0,
    holdout: float | None = None,
    bounded: bool = False,
    secure: bool = False,
) -> Scenario:
    """Return the task, and the rows of each trainer.

    `task` is a task, what `find_task` takes, a data set of scikit-learn, or None for one that is proposed for the data.
    `data` is None for the task's own rows; what `load_data` takes, a data set, arrays (inputs, targets) or a data
    frame, which are split; or a list or a mapping of those, one for each trainer. The names of the trainers are those
    that `fedmq demo` gives them, because each trainer's random stream has its name. With `bounded`, the columns of a
    data set have bounds, for private runs. With `secure`, there are enough trainers for a secure sum unless `trainers`
    is given.

    Raises:
        BadConfiguration: options that contradict each other, or do not fit the task.
        BadData: data that cannot be read, or do not fit the task.
    """
    if trainers is not None and not 1 <= trainers <= TRAINERS_MAX:
        raise BadConfiguration(f"trainers: expected 1 to {TRAINERS_MAX}, got {trainers}")
    if isinstance(task, str) and task in DATASETS:
        if data is not None:
            raise BadConfiguration(f"expected data of {task} or other data, got both: name a task for other data")
        task, data = None, task
    if data is None:
        shipped = _shipped(task, algorithm, holdout)
        count = trainers or _intended(shipped, secure)
        return Scenario(shipped, _own(task if isinstance(task, str) else "", shipped, count, split, seed))
    several = _several(data)
    if several is not None and (trainers is not None or split != DEFAULT):
        raise BadConfiguration("expected one data set to split, or one for each trainer, got several and how to split")
    sources = {"": data} if several is None else several
    found = {name: _read(one) for name, one in sources.items()}
    shipped = (
        _shipped(task, algorithm, holdout)
        if task is not None
        else Shipped(
            _proposed(
                data,
                [one for one, _ in found.values()],
                [file for _, file in found.values()],
                algorithm,
                bounded=bounded,
            ).with_holdout(holdout),
            None,
        )
    )
    fitted = {name: _for_task(one, shipped.task) for name, (one, _) in found.items()}
    if several is None:
        fitted = _split(fitted[""], shipped.task, trainers or _intended(shipped, secure), split, seed)
    return Scenario(shipped, fitted)


def _intended(shipped: Shipped, secure: bool) -> int:
    return max(shipped.task.trainers, SECURE_TRAINERS_MIN if secure else 1)


def _shipped(task: Task | str | None, algorithm: str | None, holdout: float | None) -> Shipped:
    if task is None:
        raise BadConfiguration("expected a task or data, got neither: name one, such as xor or digits")
    found = Shipped(task, None) if isinstance(task, Task) else ship(task, algorithm)
    return found._replace(task=found.task.with_holdout(holdout))


def _own(name: str, shipped: Shipped, count: int, split: str, seed: int) -> dict[str, Data]:
    """Return the own rows of a built-in task or a FILE.py, in parts."""
    task = shipped.task
    if task.schema is not None or not name:
        raise BadConfiguration(f"{name or task.name}: expected data, this task has no rows of its own: give some")
    if split != DEFAULT:
        return _split(task_rows(name, 1, 1), task, count, split, seed, own=True)
    if name not in TASK_NAMES:
        _, defined = run_task_file(name)
        if not callable(defined.get("rows")):
            task_rows(name, 1, count)  # raises
    return {one: task_rows(name, part, count) for part, one in enumerate(own_names(count), 1)}


def _several(data: object) -> dict[str, object] | None:
    """Return the data of each trainer by name; None if all are in one place."""
    if isinstance(data, Mapping) and all(isinstance(one, str | tuple) or not np.ndim(one) for one in data.values()):
        return {str(name): one for name, one in data.items()}
    if not isinstance(data, list) or len(data) == 1:
        return None
    if all(isinstance(one, str) for one in data):
        return dict(zip(names_of_sources(data), data, strict=True))
    if all(isinstance(one, tuple | Rows | Table) or hasattr(one, "columns") for one in data):
        return dict(zip(own_names(len(data)), data, strict=True))
    return None


def _read(source: object) -> tuple[Data, TaskFile | None]:
    """Return the rows of one source, with the task file of a data set."""
    if isinstance(source, list) and len(source) == 1:
        source = source[0]
    if isinstance(source, str):
        return load_dataset(source) if source in DATASETS else (load_data(source), None)
    if isinstance(source, Rows):
        return source, None
    if isinstance(source, tuple) and len(source) == 2:
        return as_rows(source[0], source[1], "data"), None
    if isinstance(source, Table):
        return source, None
    return Table.from_frame(source), None


def _proposed(
    data: object, found: Sequence[Data], files: Sequence[TaskFile | None], algorithm: str | None, *, bounded: bool
) -> Task:
    """Return the task that fits tables: that of the data set, or what `fedmq new` proposes."""
    if files[0] is not None:
        return task_of(with_bounds(files[0], found[0]) if bounded else files[0], algorithm)
    tables = [one for one in found if isinstance(one, Table)]
    if len(tables) < len(found):
        raise BadConfiguration(
            "expected a task for rows without names of columns, got none: name a task, or give a data frame"
        )
    name = name_of_file(Path(data)) if isinstance(data, str) else NAME_OF_DATA
    proposal = propose(tables)
    columns = {one.name: one.column for one in proposal.columns}
    return task_of(TaskFile(name=name, target=proposal.target, columns=columns), algorithm)


def _for_task(data: Data, task: Task) -> Data:
    """Return a table as rows of numbers if the task names no columns; rows of numbers fitted to the task."""
    if isinstance(data, Table):
        if task.schema is not None:
            return data
        data = positional(data)
    return data if task.schema is not None or isinstance(task.model, Code) else task.fit(data)


def _split(data: Data, task: Task, trainers: int, split: str, seed: int, *, own: bool = False) -> dict[str, Data]:
    """Return the rows of each trainer; they lie one after the other in memory, once."""
    column = column_of(split)
    values = None if column is None else _values(data, task, column)
    parts = partition(split, count_rows(data), trainers, seed, values)
    names = own_names(len(parts)) if own else [f"site-{place}" for place in range(1, len(parts) + 1)]
    order, ends = np.concatenate(parts), np.cumsum([len(part) for part in parts])
    together = data if np.array_equal(order, np.arange(len(order))) else _taken(data, order)
    return {
        name: _taken(together, slice(int(end) - len(part), int(end)))
        for name, part, end in zip(names, parts, ends, strict=True)
    }


def _taken(data: Data, which: Integers | slice) -> Data:
    """Return some of the rows: a view of them for a slice."""
    if isinstance(data, Rows):
        return chosen(data, which)  # type: ignore[arg-type]  # it takes indices, too
    columns = {name: column[which] for name, column in data.columns.items()}
    lines = data.lines[which]
    return replace(data, columns=columns, num_rows=len(lines), lines=lines)


def _values(data: Data, task: Task, column: str) -> npt.NDArray[Any]:
    """Return a column of the data, (rows,): the target, or an input by its name, or by its number from 1."""
    if isinstance(data, Table):
        name = task.schema.target.name if column == TARGET and task.schema is not None else column
        if name not in data.columns:
            known = ", ".join(data.names[:8])
            raise BadConfiguration(f"split: expected a column such as {known}, got {name!r:.80}")
        found = data.columns[name]
        return np.asarray([str(one) for one in found]) if found.dtype.kind == "O" else found
    if column == TARGET:
        return data.targets
    if not column.isdecimal() or not 1 <= int(column) <= data.inputs.shape[1]:
        raise BadConfiguration(
            f"split: expected target or the number of a column from 1 to {data.inputs.shape[1]}, got {column!r:.80}"
        )
    return data.inputs[:, int(column) - 1]
