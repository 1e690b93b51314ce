"""The rows of a trainer as the queries of a run see them: encoded, split, prepared.

    table  -- schema -->  columns  -- hash -->  training rows  -- statistics of all sites -->  features
                                                held-out rows

Columns are encoded and split once for a task; features are computed once for a preparation. Rows without a schema are
numbers already: only the split is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadData
from fedmq.exact.draws import hash_rows
from fedmq.exact.integers import Floats
from fedmq.tables.encoding import encode_table
from fedmq.tables.preparation import Preparation
from fedmq.tables.table import Table
from fedmq.tasks.task import Rows, Task

# features: training rows as the model gets them. columns: training rows as encoded, NaN for missing. held-out: the
# other rows, as features if the round carries a preparation, else as columns. A model of trees gets columns for all.
View = Literal["features", "columns", "held-out"]

TASK_SALT = 1.0  # of the hash that splits a task's rows: an algorithm that holds out rows of its own has none


class RowViews:
    """The rows of one trainer for one task. `num_examples` counts all; `notes` say what was left out or not known.

    A task with a holdout has held-out rows: those that a hash chooses, or the rows `held_out` if there are some.
    `num_held_out` is their number; of rows that a hash chooses about that, whatever is in the rows.

    Raises:
        BadData: the rows do not fit the task or its schema, or none is left.
    """

    def __init__(self, task: Task, data: Rows | Table, held_out: Rows | Table | None = None) -> None:
        self.task = task
        self.notes: tuple[str, ...] = ()
        rows = self._fitted(data)
        self.num_examples = len(rows.inputs)
        self.num_held_out = round(self.num_examples * task.holdout)
        scaled = task.scaled(rows)
        if task.holdout and held_out is not None:
            self._training, self._held_out = scaled, task.scaled(self._fitted(held_out))
            self.num_held_out = len(self._held_out.inputs)
            self.num_examples += self.num_held_out
        elif task.holdout:
            held = is_held_out(rows, task.holdout, TASK_SALT)
            self._training, self._held_out = chosen(scaled, ~held), chosen(scaled, held)
        else:
            self._training, self._held_out = scaled, chosen(scaled, slice(0, 0))
        self._features: dict[View, tuple[bytes, Rows]] = {}  # with the preparation that they are of

    @classmethod
    def pooled(cls, parts: Sequence[RowViews]) -> RowViews:
        """Return the rows of several trainers in one place; what one holds out stays held out."""
        pooled = cls.__new__(cls)
        pooled.task, pooled.notes = parts[0].task, ()
        pooled._training = joined([one._training for one in parts])
        pooled._held_out = joined([one._held_out for one in parts])
        pooled.num_examples = sum(one.num_examples for one in parts)
        pooled.num_held_out = sum(one.num_held_out for one in parts)
        pooled._features = {}
        return pooled

    def count(self, view: View) -> int:
        """Return how many rows a view has."""
        return len((self._held_out if view == "held-out" else self._training).inputs)

    def view(self, view: View, preparation: Mapping[str, Floats] | None = None) -> Rows:
        """Return the rows of a view; `preparation` has the arrays `column_shift`, `column_scale` and `column_fill`.

        The same preparation again returns the same rows.
        """
        rows = self._held_out if view == "held-out" else self._training
        schema = self.task.schema
        if schema is None or not preparation or view == "columns" or self.task.takes_columns:
            return rows
        key = b"".join(preparation[name].tobytes() for name in sorted(preparation))
        kept = self._features.get(view)
        if kept is None or kept[0] != key:
            prepared = Preparation(
                schema, preparation["column_shift"], preparation["column_scale"], preparation["column_fill"]
            )
            kept = self._features[view] = key, rows._replace(inputs=prepared.features(rows.inputs))
        return kept[1]

    def _fitted(self, data: Rows | Table) -> Rows:
        task, schema = self.task, self.task.schema
        if schema is None:
            if isinstance(data, Table):
                problem = f"expected rows of numbers for task {task.name}, which has no schema, got a table"
                raise BadData(f"{problem}: give the task a schema", problem)
            return task.fit(data)
        if isinstance(data, Rows):
            problem = f"expected a table with named columns for task {task.name}, got arrays without names"
            raise BadData(f"{problem}: give a CSV, Parquet or Excel file, or a data frame", problem)
        encoded = encode_table(schema, data)
        left_out = [f"{count} rows are left out: {reason}" for reason, count in encoded.left_out.items() if count]
        self.notes = (*self.notes, *left_out, *encoded.notes)
        if not len(encoded.targets):
            problem = f"expected rows for task {task.name}, got none that can be used"
            raise BadData("; ".join([problem, *left_out]), problem)
        rows = Rows(encoded.columns, encoded.targets, encoded.weights, encoded.offsets)
        return rows._replace(hashes=_hashes(rows, None))


def count_rows(data: Rows | Table) -> int:
    """Return how many rows there are, before a schema leaves some out."""
    return data.num_rows if isinstance(data, Table) else len(data.inputs)


def is_held_out(rows: Rows, share: float, salt: float | None = None) -> npt.NDArray[np.bool_]:
    """Return whether each row is held out, (rows,): by the hash of its numbers, so the same on any trainer.

    Another `salt` chooses other rows. Without one, rows of a table are chosen by what is in the table, however they are
    prepared.
    """
    if not share:
        return np.zeros(len(rows.inputs), bool)
    hashes = rows.hashes if salt is None and rows.hashes is not None else _hashes(rows, salt)
    return hashes < np.uint64(int(share * 2.0**64))


def _hashes(rows: Rows, salt: float | None) -> npt.NDArray[np.uint64]:
    columns = np.concatenate([rows.inputs.T, rows.targets[None].astype(np.float64)])
    if salt is not None:
        columns = np.concatenate([np.full((1, len(rows.inputs)), salt), columns])
    columns = np.where(np.isnan(columns), np.nan, columns)  # one NaN for all
    return hash_rows(np.ascontiguousarray(columns))


def joined(parts: Sequence[Rows]) -> Rows:
    """Return the rows of all parts, which all have weights and offsets or all have none."""
    weights = [one.weights for one in parts if one.weights is not None]
    offsets = [one.offsets for one in parts if one.offsets is not None]
    hashes = [one.hashes for one in parts if one.hashes is not None]
    return Rows(
        np.concatenate([one.inputs for one in parts]),
        np.concatenate([one.targets for one in parts]),
        np.concatenate(weights) if weights else None,
        np.concatenate(offsets) if offsets else None,
        np.concatenate(hashes) if hashes else None,
    )


def chosen(rows: Rows, which: npt.NDArray[np.bool_] | slice) -> Rows:
    """Return a part of the rows."""
    weights = None if rows.weights is None else rows.weights[which]
    offsets = None if rows.offsets is None else rows.offsets[which]
    hashes = None if rows.hashes is None else rows.hashes[which]
    return Rows(rows.inputs[which], rows.targets[which], weights, offsets, hashes)
