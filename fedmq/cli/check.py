"""The command `fedmq check`: does a table fit a task, and what would leave this site?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fedmq.cli.echo import echo, echo_json
from fedmq.cli.options import NAME_OR_PATH, UserText, log_options, one_thread_for_arrays
from fedmq.errors import BadConfiguration, BadTable, FedmqError, one_line

if TYPE_CHECKING:
    from fedmq.algorithms.base import Strategy
    from fedmq.tables.encoding import Encoded
    from fedmq.tables.schema import Column, Schema
    from fedmq.tables.table import Table
    from fedmq.tasks.task import Task

ROUNDS_TRIED = 12
ROWS_TRIED = 5000  # the numbers that are sent do not depend on the rows
LEVELS_SHOWN = 6


@click.command()
@click.argument("task_name", metavar="TASK", type=NAME_OR_PATH)
@click.option("--data", type=UserText(), required=True, metavar="DATA", help="The rows, as for fedmq trainer --data.")
@click.option("--algorithm", type=NAME_OR_PATH, metavar="NAME", help="As for fedmq aggregator. [default: the task's]")
@click.option("--alone", is_flag=True, help="Train on these rows alone as well, and show the figures on held-out ones.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
@log_options
def check(task_name: str, data: str, algorithm: str | None, alone: bool, as_json: bool) -> None:
    """Say what of a table fits TASK, which rows remain, and what would be sent. Nothing leaves this machine.

    TASK is a FILE.toml of fedmq new, or a FILE.py whose task has a schema. Exit code 0 if the table trains, 78 if not.

    \b
    Examples:
      fedmq check tumor.toml --data south.csv
      fedmq check tumor.toml --data south.csv --alone
      fedmq check tumor.toml --data south.csv --algorithm averaging --json
    """
    one_thread_for_arrays()
    from fedmq.algorithms.registry import DEFAULT_ALGORITHM, find_algorithm
    from fedmq.data.readers import read_table
    from fedmq.tables.encoding import encode_table
    from fedmq.tasks.task_file import find_task

    task = find_task(task_name, algorithm)
    strategy = find_algorithm(algorithm or task.algorithm or DEFAULT_ALGORITHM, task)
    if task.schema is None:
        raise BadConfiguration(f"{task_name}: expected a task with a schema, got none: make one with fedmq new")
    table = read_table(data, tuple(task.schema.names()))
    try:
        encoded = encode_table(task.schema, table)
    except BadTable as error:
        if as_json:
            echo_json(
                {"task": task.name, "data": data, "trains": False, "rows": table.num_rows, "faults": error.faults}
            )
        else:
            echo(f"{data}: {table.num_rows} rows; it does not fit {task_name}:", err=True)
            for fault in error.faults:
                echo(f"  {fault}", err=True)
        raise SystemExit(BadConfiguration.exit_code) from error
    found = _facts(task, table, encoded, strategy)
    if alone:
        found["alone"] = _alone(task, table, strategy)
    if as_json:
        echo_json({"task": task.name, "data": data, **found})
        return
    for line in _lines(task_name, data, task.schema, found):
        echo(line)


def _facts(task: Task, table: Table, encoded: Encoded, strategy: Strategy[Any]) -> dict[str, Any]:
    """Return what is printed, as JSON."""
    import numpy as np

    from fedmq.tasks.row_views import RowViews

    schema = task.schema
    assert schema is not None
    views = RowViews(task, table)
    columns = [_column(one, encoded.columns[:, place], encoded) for place, one in enumerate(schema.columns)]
    targets = encoded.targets
    if schema.target.kind == "class":
        counts = np.bincount(targets.astype(np.int64), minlength=len(schema.target.classes)).tolist()
        target: Any = dict(zip(schema.target.classes, counts, strict=True))
    else:
        target = {"smallest": float(targets.min()), "mean": float(targets.mean()), "largest": float(targets.max())}
    return {
        "trains": True,
        "rows": table.num_rows,
        "rows_kept": len(targets),
        "rows_held_out": len(views.view("held-out").targets),
        "left_out": dict(encoded.left_out),
        "columns": columns,
        "features": schema.num_features,
        "target": target,
        "notes": list(encoded.notes),
        "algorithm": strategy.name,
        **_questions(task, table, strategy),
    }


def _column(column: Column, values: Any, encoded: Encoded) -> dict[str, Any]:
    import numpy as np

    from fedmq.algorithms.statistics.query import EXPONENT_MAX

    there = values[~np.isnan(values)]
    unlisted = encoded.unlisted.get(column.name, 0)
    described = {"name": column.name, "kind": column.kind, "missing": len(values) - len(there) - unlisted}
    if column.kind in ("category", "ordinal"):
        counts = np.bincount(there.astype(np.int64), minlength=len(column.categories)).tolist()
        return {**described, "unlisted": unlisted, "counts": dict(zip(column.categories, counts, strict=True))}
    if len(there):
        described |= {"smallest": float(there.min()), "median": float(np.median(there)), "largest": float(there.max())}
        if clipped := int(np.count_nonzero(np.abs(there) >= 2.0**EXPONENT_MAX)):
            described["clipped"] = clipped
    return described


def _questions(task: Task, table: Table, strategy: Strategy[Any]) -> dict[str, Any]:
    """Return what a run with these rows alone would send, or why it would fail."""
    from dataclasses import replace

    from fedmq.algorithms.trial import questions
    from fedmq.tasks.row_views import RowViews

    some = slice(None, None, max(1, table.num_rows // ROWS_TRIED))
    lines = table.lines[some]
    columns = {name: cells[some] for name, cells in table.columns.items()}
    part = replace(table, columns=columns, num_rows=len(lines), lines=lines)
    try:
        asked = questions(strategy, task, RowViews(task, part), ROUNDS_TRIED)
    except FedmqError as error:
        return {"sent": [], "fails_alone": one_line(error)}
    return {"sent": [vars(one) for one in asked.values()]}


def _alone(task: Task, table: Table, strategy: Strategy[Any]) -> dict[str, Any]:
    """Return the figures on the held-out rows of a model that these rows alone train."""
    import msgspec

    from fedmq.algorithms.baselines import measure_here, train_here
    from fedmq.observe.event_text import metrics_text
    from fedmq.tasks.row_views import RowViews

    if not task.holdout:
        raise BadConfiguration("--alone: expected a task that holds rows out, got none: set holdout = 0.2 in its file")
    views = RowViews(task, table)
    try:
        evaluation, moments = train_here(strategy, task, 0, task.rounds, views)
        if evaluation is None:
            return {"text": "no model within the rounds of the task"}
        metrics = measure_here(task, evaluation, moments, {"alone": views})
    except FedmqError as error:
        return {"text": f"no model: {one_line(error)}"}
    return {"text": metrics_text(metrics), **msgspec.to_builtins(metrics)}


def _lines(task_name: str, data: str, schema: Schema, found: dict[str, Any]) -> Iterator[str]:
    target = schema.target
    yield f"{data} fits {task_name}: all {len(found['columns'])} columns and the target {target.name} are there"
    left_out = "".join(f"; left out: {count} {reason}" for reason, count in found["left_out"].items())
    yield (
        f"rows      {found['rows_kept']} of {found['rows']} remain, {found['rows_held_out']} of them held out to "
        f"measure the model{left_out}"
    )
    if target.kind == "class":
        counts = [f"{label} {count}" for label, count in found["target"].items()]
        yield f"classes   {', '.join(counts)}"
    else:
        yield f"target    {_spread(found['target'], 'mean')}"
    yield f"features  {found['features']}, from these columns:"
    width = min(30, max(len(one["name"]) for one in found["columns"]))
    for one in found["columns"]:
        yield f"  {one['name']:{width}}  {one['kind']:8}  {_described(one)}"
    yield from (f"note: {note}" for note in found["notes"])
    yield from _sent(found)
    if "alone" in found:
        yield f"alone     on held-out rows: {found['alone']['text']}"
    yield "This table trains."


def _described(column: dict[str, Any]) -> str:
    if "counts" in column:
        levels = [f"{label} {count}" for label, count in column["counts"].items()]
        more = len(levels) - LEVELS_SHOWN
        text = ", ".join(levels[:LEVELS_SHOWN]) + (f" and {more} more" if more > 0 else "")
        if column["unlisted"]:
            text += f"; {column['unlisted']} not listed"
    else:
        text = _spread(column, "median") if "smallest" in column else "no values"
        if "clipped" in column:
            text += f"; {column['clipped']} beyond 2^64, which are clipped: choose a larger unit for the column"
    return text + (f"; {column['missing']} missing" if column["missing"] else "")


def _spread(numbers: dict[str, Any], middle: str) -> str:
    return f"{numbers['smallest']:g} to {numbers['largest']:g}, {middle} {numbers[middle]:g}"


def _sent(found: dict[str, Any]) -> Iterator[str]:
    if "fails_alone" in found:
        yield f"note: {found['algorithm']} does not train on these rows alone: {found['fails_alone']}"
        return
    yield f"sent      with {found['algorithm']}, in the first {ROUNDS_TRIED} rounds; no row or cell is:"
    for one in found["sent"]:
        times = "once" if one["times"] == 1 else f"{one['times']} times"
        yield f"  {one['kind']:10}  {times}, {one['numbers']} numbers: {one['sends'] or 'sums over the rows'}"
