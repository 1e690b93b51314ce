"""Five small data sets with their task files: numbers, counts, two and more classes, categories and gaps."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from table_rows import patients, table, table_splits

from fedmq.tables.table import Table
from fedmq.tasks.table_task import FileModel, parse_task_file, task_of
from fedmq.tasks.task import Task

ALGORITHMS = ("statistics", "ridge", "newton", "boosting")
FEW_TREES = FileModel("trees", trees=3, depth=3)
HEAD = 'name = "{name}"\nholdout = 0.2\n\n[parameters.newton]\npenalty = 1.0\n\n[target]\nname = "{target}"\n'
PATIENTS = """\
[columns]
age = { kind = "number" }
color = { kind = "category", categories = ["red", "green", "blue"] }
dose = { kind = "number", missing = "mean" }
smoker = { kind = "boolean" }
grade = { kind = "ordinal", categories = ["low", "mid", "high"] }
"""


class DataSet(NamedTuple):
    text: str  # of the task file
    target: str
    rows: Table

    def task(self, algorithm: str) -> Task:
        """The task of the file: few trees for `boosting`, and counts are numbers for `ridge`."""
        file = parse_task_file(self.text if algorithm != "ridge" else self.text.replace('"count"', '"number"'))
        if algorithm == "boosting":
            file = msgspec.structs.replace(file, model=FEW_TREES)
        return task_of(file, algorithm)

    def splits(self) -> Iterator[tuple[str, list[Table]]]:
        """Yield all rows at one trainer, at three, at ten sorted by target, and in any order at seven."""
        yield from table_splits(self.rows, self.target).items()


def _of_patients(target: str, about: str) -> DataSet:
    whole = patients()
    used = ("age", "color", "dose", "smoker", "grade", target)
    rows = Table(whole.source, used, {name: whole.columns[name] for name in used}, whole.num_rows, whole.lines)
    return DataSet(HEAD.format(name=target, target=target) + about + PATIENTS, target, rows)


def _of_scikit_learn(bunch: Any, target: str, labels: tuple[str, ...] = (), columns: int = 6) -> DataSet:
    """The first columns of a data set, by name."""
    names = tuple(str(name).replace(" ", "_") for name in bunch.feature_names)[:columns]
    values = np.array(labels)[bunch.target] if labels else bunch.target.astype(float)
    arrays = {name: bunch.data[:, place].astype(float) for place, name in enumerate(names)}
    listed = ", ".join(f'"{one}"' for one in labels)
    about = f'kind = "class"\nclasses = [{listed}]\n' if labels else 'kind = "number"\n'
    inputs = "[columns]\n" + "".join(f'{name} = {{ kind = "number" }}\n' for name in names)
    text = HEAD.format(name=target, target=target) + about + inputs
    return DataSet(text, target, table((*names, target), {**arrays, target: values}))


def data_sets() -> Mapping[str, DataSet]:
    return {
        "diabetes": _of_scikit_learn(load_diabetes(scaled=False), "progression"),
        "ill": _of_patients("ill", 'kind = "class"\nclasses = ["no", "yes"]\n'),
        "wine": _of_scikit_learn(load_wine(), "cultivar", ("first", "second", "third")),
        "visits": _of_patients("visits", 'kind = "count"\n'),
        "breast cancer": _of_scikit_learn(load_breast_cancer(), "tumor", ("malignant", "benign")),
    }


def write_csv(rows: Table, path: Path) -> None:
    """Write a table as CSV: the shortest text of each number, and nothing for a missing cell."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(rows.names)
        columns = [["" if cell != cell else cell for cell in rows.columns[name].tolist()] for name in rows.names]
        writer.writerows(zip(*columns, strict=True))
