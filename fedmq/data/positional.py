"""Rows for tasks without a schema: all columns are inputs by their place, and the last one is the target."""

import numpy as np

from fedmq.data.faults import UNREADABLE, TableFaults
from fedmq.errors import BadData, BadTable
from fedmq.exact.integers import Floats
from fedmq.tables.schema import MISSING_CELLS
from fedmq.tables.table import Column, Table, cell_text, numbers
from fedmq.tasks.task import Rows

_BOOLEANS = {"true": 1.0, "false": 0.0}


def positional(table: Table) -> Rows:
    """Return the rows of a table whose cells are all numbers, or True and False, which count as 1 and 0.

    Raises:
        BadTable: cells that are missing, text or infinite: all faults at once.
        BadData: fewer than two columns.
    """
    if len(table.names) < 2 and not table.faults:
        raise BadData(
            f"{table.source}: expected inputs and, last, a target, got {len(table.names)} columns: add the target, or "
            "?separator= to the name of the file"
        )
    faults = TableFaults()
    faults.total = table.num_rows
    columns = [_numbers(table, place, name, faults) for place, name in enumerate(table.names)]
    if found := (*table.faults, *faults.listed()):
        raise BadTable(table.source, [fault.text for fault in found], [UNREADABLE])
    inputs = np.empty((table.num_rows, len(columns) - 1))  # not copied again: the rows may be most of the memory
    for place, column in enumerate(columns[:-1]):
        inputs[:, place] = column
    return Rows(inputs, np.array(columns[-1], np.float64))


def _numbers(table: Table, place: int, name: str, faults: TableFaults) -> Floats:
    column = table.columns[name]
    if column.dtype.kind == "f":
        for kind, bad in (("missing", np.isnan(column)), ("infinite", np.isinf(column))):
            if bad.any():
                _add(table, place, name, kind, np.flatnonzero(bad).tolist(), faults)
        return column
    levels = {cell: _kind_or_number(cell, table) for cell in dict.fromkeys(column.tolist())}
    found = [levels[cell] for cell in column.tolist()]
    for kind in ("missing", "text", "infinite"):
        if rows := [row for row, one in enumerate(found) if one == kind]:
            _add(table, place, name, kind, rows, faults)
    return np.array([np.nan if isinstance(one, str) else one for one in found])


def _kind_or_number(cell: str, table: Table) -> str | float:
    """Return the number of a cell, or the kind of its fault."""
    if cell.casefold() in _BOOLEANS:
        return _BOOLEANS[cell.casefold()]
    if cell in MISSING_CELLS:
        return "missing"
    if (found := numbers([cell], table.decimal)) is not None:
        return float(found[0])
    return "infinite" if cell.casefold().lstrip("+-") in ("inf", "infinity") else "text"


def _add(table: Table, place: int, name: str, kind: str, rows: list[int], faults: TableFaults) -> None:
    """Add a fault of a column, with advice that fits."""
    is_target = place == len(table.names) - 1
    called = "" if name == f"x{place + 1}" else f" ({name})"
    line = int(table.lines[rows[0]])
    column: Column = table.columns[name]
    cell = cell_text(column[rows[0]])
    got = f"{cell!r:.40}" if cell else "an empty cell"
    advice, common = "correct or drop the line", "drop the column, or write it as numbers"
    if kind == "missing":
        advice, common = advice if is_target else "fill in or drop the line", "drop the column"
    elif kind == "text" and is_target:
        common = "number the classes from 0, or name them in a task with a schema"
    faults.add(
        kind,
        (line, place),
        f"line {line}, column {place + 1}{called}: expected a finite number",
        got,
        advice,
        column=place,
        count=len(rows),
        common=common,
    )
