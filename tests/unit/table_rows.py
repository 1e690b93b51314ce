"""Tables with categories and gaps, the same on every machine, and tasks that describe them."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedmq.exact.draws import normals, words
from fedmq.exact.elementary import exp
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.tasks.task import Task

ROWS = 300
COLUMNS = (
    Column(name="age"),
    Column(name="color", kind="category", categories=("red", "green", "blue")),
    Column(name="dose", missing="mean"),
    Column(name="smoker", kind="boolean"),
    Column(name="grade", kind="ordinal", categories=("low", "mid", "high")),
)


def table(names: tuple[str, ...], columns: dict[str, np.ndarray], source: str = "rows.csv") -> Table:
    size = len(columns[names[0]])
    return Table(source, names, columns, size, np.arange(2, size + 2))


def patients(rows: int = ROWS) -> Table:
    """A table with three targets: `ill` has labels, `days` numbers, `visits` counts; and `weight` and `offset`."""
    draws = normals(rows * 4, 1, "patients").reshape(rows, 4)
    picks = words(rows * 4, 1, "picks").reshape(rows, 4)
    color = np.array(["red", "green", "blue", ""])[(picks[:, 0] % np.uint64(4)).astype(int)]
    grade = np.array(["low", "mid", "high"])[(picks[:, 1] % np.uint64(3)).astype(int)]
    smoker = np.array(["yes", "no", ""])[(picks[:, 2] % np.uint64(3)).astype(int)]
    age, dose = 50.0 + 12.0 * draws[:, 0], exp(draws[:, 1])
    score = (age - 50.0) / 12.0 + (color == "blue") - (color == "") * 0.5 + (grade == "high") * 0.7 + 0.3 * dose
    ill = np.where(score + draws[:, 2] > 0.7, "yes", "no")
    days, visits = 20.0 + 3.0 * score + draws[:, 3], np.rint(exp(0.3 * score + 0.1 * np.abs(draws[:, 3])))
    age, dose = age.copy(), dose.copy()
    age[::7], dose[::11] = np.nan, np.nan
    columns: dict[str, np.ndarray] = {
        "age": age, "color": color, "dose": dose, "smoker": smoker, "grade": grade, "ill": ill, "days": days,
        "visits": visits, "weight": 1.0 + (picks[:, 3] % np.uint64(3)).astype(float), "offset": 0.1 * draws[:, 3],
    }  # fmt: skip
    return table(tuple(columns), columns)


def chosen(whole: Table, rows: np.ndarray) -> Table:
    columns = {name: column[rows] for name, column in whole.columns.items()}
    return Table(whole.source, whole.names, columns, len(rows), whole.lines[rows])


def table_splits(whole: Table, label: str = "ill") -> dict[str, list[Table]]:
    """The rows at one trainer, three, ten sorted by label, and in any order at seven, with columns in another order."""
    everything = np.arange(whole.num_rows)
    by_label = np.argsort(whole.columns[label], kind="stable")
    shuffled = np.argsort(words(len(everything), 7, "shuffle"), kind="stable")
    orders = {"three": (everything, 3), "ten by label": (by_label, 10), "seven": (shuffled, 7)}
    split = {
        name: [chosen(whole, one) for one in np.array_split(order, count)] for name, (order, count) in orders.items()
    }
    other = split["three"][0]
    split["three"][0] = Table(other.source, other.names[::-1], other.columns, other.num_rows, other.lines)
    return {"one": [whole], **split}


def table_task(
    target: str = "ill",
    holdout: float = 0.0,
    *,
    weight: str = "",
    offset: str = "",
    schema_columns: tuple[Column, ...] = COLUMNS,
    **fields: Any,
) -> Task:
    ignored = tuple(one for one in ("ill", "days", "visits", "weight", "offset") if one not in (target, weight, offset))
    kinds: dict[str, Any] = {"ill": {"kind": "class", "classes": ("no", "yes")}, "visits": {"kind": "count"}}
    schema = Schema(
        columns=schema_columns,
        target=Target(name=target, **kinds.get(target, {})),
        weight=weight,
        offset=offset,
        ignored=ignored,
    )
    inputs = schema.num_features
    model: Any = {"ill": MLP((inputs, 2)), "visits": LogLinear(inputs)}.get(target, Linear(inputs))
    about: dict[str, Any] = {
        "name": "patients",
        "model": model,
        "loss": "cross-entropy" if target == "ill" else "squared-error",
        "metric": "accuracy" if target == "ill" else "loss",
        "trainers": 1,
    }
    return Task(**{**about, **fields}, schema=schema, holdout=holdout)
