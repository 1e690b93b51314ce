"""The commands `fedmq predict` and `fedmq export`: use the model of a run."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import FILE, NAME_OR_PATH, one_thread_for_arrays, option
from fedmq.errors import BadData
from fedmq.runtime.atomic_files import SHARED_FILE, write_whole, writing

if TYPE_CHECKING:
    import numpy.typing as npt

    from fedmq.models.trained_model import TrainedModel
    from fedmq.tables.table import Table

FORMATS = ("onnx", "sklearn", "json", "safetensors")  # as in `fedmq.models.exports.verified`, which imports numpy
PREDICTION = "prediction"
run_argument = click.argument("run", type=NAME_OR_PATH)


@click.command()
@run_argument
@click.option("--data", required=True, metavar="ROWS", help="The rows to predict for, as for fedmq trainer.")
@click.option("-o", "--output", type=FILE, metavar="FILE", help="Write a CSV file. [default: stdout]")
@option("--keep", multiple=True, metavar="COLUMN", help="Copy this column, such as an id; repeatable.")
@option("--task", metavar="FILE", help="The task's file, which makes a PyTorch model: it is executed.")
def predict(run: str, data: str, output: Path | None, keep: tuple[str, ...], task: str | None) -> None:
    """Predict for new rows with the model of RUN: a run's folder, a name below runs, or a model file.

    The rows are as they were for training, without the target: columns are found by name, text, gaps and dates are read
    as the task says. A model without named columns takes tables of numbers, with or without a last column for the
    target. The CSV has a line for each row: the kept columns, the prediction, and the probability of each class. A row
    that cannot be predicted has an empty prediction.

    \b
    Examples:
      fedmq predict runs/tumor --data new.csv -o predicted.csv --keep patient
      fedmq predict runs/tumor/model.npz --data new.csv
      fedmq predict runs/cnn --data new.csv --task digits_cnn.py
    """
    one_thread_for_arrays()
    from fedmq.data.readers import load_data
    from fedmq.runs.model_file import model_of
    from fedmq.tables.table import Table
    from fedmq.tasks.task_file import find_task

    if task is not None:
        find_task(task)  # allows the factory of its model

    trained = model_of(run)
    names = [] if trained.schema is None else [column.name for column in trained.schema.columns]
    rows = load_data(data, names)
    if isinstance(rows, Table):
        kept = _kept(rows, keep)
    elif trained.schema is None and not keep:
        kept = {}
    else:
        raise BadData(f"--data {data}: expected a table with named columns, got arrays without names: give a file")
    if trained.schema is not None:
        encoded = trained.encode(rows)
        for note in encoded.notes:
            echo(f"fedmq predict: {note}", err=True)
        values, probabilities = _predicted(trained, encoded)
    else:
        values, probabilities = _of_numbers(trained, _numbers(trained, rows, keep))
    content = _csv(trained, kept, values, probabilities)
    if output is None:
        _print(content)
    else:
        with writing(output, "choose another -o"):
            write_whole(output, content.encode())
    without = sum(value == "" for value in values)
    echo(f"fedmq predict: {len(values)} rows" + f", {without} of them without a prediction" * bool(without), err=True)


@click.command()
@run_argument
@click.option("--to", "to", required=True, type=click.Choice(FORMATS), help="The format.")
@click.option("-o", "--output", required=True, type=FILE, metavar="FILE", help="The file to write.")
def export(run: str, to: Any, output: Path) -> None:
    """Write the model of RUN (a run's folder, a name below runs, or a model file) in another format.

    Filling in, standardizing and categories are part of the file. onnx takes raw columns by name in any runtime of
    ONNX; sklearn is a fitted pipeline as joblib writes it (a pickle: load only a file that you trust); json and
    safetensors hold all numbers by name. Before the file is written, it is loaded and compared with the model.

    \b
    Examples:
      fedmq export runs/tumor --to onnx -o tumor.onnx
      fedmq export runs/tumor/model.npz --to json -o tumor.json
    """
    one_thread_for_arrays()
    from fedmq.models.exports.verified import export as export_model
    from fedmq.runs.model_file import model_of

    exported = export_model(model_of(run), to)
    with writing(output, "choose another -o"):
        write_whole(output, exported.content, mode=SHARED_FILE)
    echo(f"{output}: {len(exported.content)} bytes; verified: {exported.verified}")


def _kept(table: Table, keep: Sequence[str]) -> Mapping[str, list[str]]:
    """Return the cells of the columns to copy, as text.

    Raises:
        BadData: there is no such column.
    """
    for name in keep:
        if name not in table.columns:
            there = ", ".join(table.names[:10])
            raise BadData(f"--keep {name}: expected a column of {table.source}, which has {there}: correct the name")
    return {name: [_text(cell) for cell in table.columns[name].tolist()] for name in keep}


def _numbers(trained: TrainedModel, rows: Any, keep: Sequence[str]) -> npt.NDArray[Any]:
    """Return the inputs (rows, inputs) for a model without a schema, NaN where they are missing."""
    import numpy as np

    from fedmq.tables.table import Table

    if not isinstance(rows, Table):
        inputs: npt.NDArray[Any] = rows.inputs
        return inputs
    names = [name for name in rows.names if name not in keep]
    if len(names) == trained.model.inputs + 1:
        names.pop()  # the target
    if len(names) != trained.model.inputs:
        raise BadData(
            f"{rows.source}: expected {trained.model.inputs} columns for task {trained.task}, and perhaps the target "
            f"as the last, got {len(names)}: give the columns that it was trained on, in this order"
        )
    if text := next((name for name in names if rows.columns[name].dtype.kind != "f"), None):
        raise BadData(f"{rows.source}, column {text}: expected numbers, got text: correct the cells, or --keep {text}")
    return np.column_stack([rows.columns[name] for name in names])


def _of_numbers(trained: TrainedModel, inputs: npt.NDArray[Any]) -> tuple[list[Any], list[list[str]]]:
    """Return predictions and probabilities; for rows with gaps, empty ones."""
    import numpy as np

    whole = np.isfinite(inputs).all(axis=1)
    found, chances = _predicted(trained, inputs[whole])
    places = iter(zip(found, chances, strict=True))
    nothing = ("", [""] * len(trained.classes))
    pairs = [next(places) if one else nothing for one in whole]
    return [value for value, _ in pairs], [chance for _, chance in pairs]


def _predicted(trained: TrainedModel, rows: Any) -> tuple[list[Any], list[list[str]]]:
    """Return the prediction of each row, "" for none, and the probability of each class as text, or no columns."""
    values = [_text(value) for value in trained.predict(rows).tolist()]
    if not trained.classes:
        return values, [[] for _ in values]
    return values, [[_text(one) for one in row] for row in trained.probabilities(rows).tolist()]


def _text(value: Any) -> Any:
    """Return a cell as text: a whole number without a point, and nothing for NaN."""
    if not isinstance(value, float):
        return value if isinstance(value, list) else str(value)
    if value != value:
        return ""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)


def _csv(
    trained: TrainedModel,
    kept: Mapping[str, list[str]],
    values: Sequence[Any],
    probabilities: Sequence[Sequence[str]],
) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    outputs = 1 if trained.classes else trained.network().outputs
    titles = [PREDICTION] if outputs == 1 else [f"{PREDICTION}_{place}" for place in range(1, outputs + 1)]
    writer.writerow([*kept, *titles, *(f"probability_{label}" for label in trained.classes)])
    for place, (value, chances) in enumerate(zip(values, probabilities, strict=True)):
        shown = value if isinstance(value, list) else [value]
        writer.writerow([*(cells[place] for cells in kept.values()), *map(_text, shown), *chances])
    return text.getvalue()


def _print(content: str) -> None:
    if sys.stdout.isatty():
        for line in content.splitlines():
            echo(line)
    else:
        sys.stdout.write(content)
