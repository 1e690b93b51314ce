"""A trainer's data, from the SPEC of `--data`: a table of columns by name, or rows. All of it is checked when read."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedmq.data.positional import positional
from fedmq.data.sources import FORMS, files_of_source, read_source
from fedmq.errors import BadData
from fedmq.tables.table import Table
from fedmq.tasks.builtin import TASK_NAMES
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import task_rows

NAMED_PARTS: Mapping[str, tuple[str, int, int]] = {"linear:bob": ("linear", 1, 2), "linear:alice": ("linear", 2, 2)}

_PART = re.compile(r"(?P<source>.+):(?P<part>[0-9]{1,9})/(?P<parts>[0-9]{1,9})")


def load_data(spec: str, names: Sequence[str] = ()) -> Table | Rows:
    """Read what `spec` names: rows of a built-in task, a FILE.py or a function; else a table of columns by name.

    `spec` is one of

        xor:1/2, parity4:3/4, linear:bob   a part of the rows of a built-in task
        FILE.py:1/2                        the rows that `rows(1, 2)` of the file returns (the file is executed)
        rows.csv                           text in any dialect: .csv, .tsv, .tab, .txt, .data, .dat; each also with .gz
        rows.npz, rows.npy                 arrays of inputs and targets; one array; or columns by name
        rows.parquet, rows.json            Parquet; a list of records, or one a line (.jsonl, .ndjson)
        rows.xlsx?sheet=North              a workbook: .xlsx, .xlsm, .xlsb, .xls, .ods
        clinic.db?table=patients           SQLite: .db, .sqlite, .sqlite3; or clinic.db?query=SELECT ...
        FOLDER                             all such files in it, sorted by name
        SELECT age, y FROM 'north.csv'     a query of DuckDB over files in the working directory
        module:function                    what `function()` returns: a data frame, or (inputs, targets)
        rows.csv:3/10                      the third of ten parts of a table's rows, in their order

    What is detected in a file can be given instead: rows.csv?separator=;&decimal=,&header=no&encoding=cp1252. With the
    `names` of a task's schema, the header of a text is looked up. Nothing is unpickled.

    Raises:
        BadData: the data cannot be read or used; names the file, the line and the column.
        BadConfiguration: FILE.py fails or defines no `task` or no `rows`.
    """
    if spec in NAMED_PARTS:
        return task_rows(*NAMED_PARTS[spec])
    part = _PART.fullmatch(spec)
    if part and (part["source"] in TASK_NAMES or part["source"].endswith(".py")):
        return task_rows(part["source"], int(part["part"]), int(part["parts"]))
    if part and spec.partition(":")[0] not in TASK_NAMES:
        whole = read_source(part["source"], names)
        if isinstance(whole, Table):
            return whole.part(int(part["part"]), int(part["parts"]))
    found = read_source(spec, names) if spec.partition(":")[0] not in TASK_NAMES else None
    if found is None:
        raise BadData(f"expected data such as xor:1/2, FILE.py:1/2, linear:bob, {FORMS}; got {spec!r}")
    return found


def read_table(spec: str, names: Sequence[str] = ()) -> Table:
    """Read the table that `spec` names, in a form of `load_data` that has columns by name.

    Raises:
        BadData: as `load_data`; or it has rows without names.
    """
    found = load_data(spec, names)
    if isinstance(found, Rows):
        raise BadData(f"{spec}: expected a table with names, got rows without: give a file, or return a data frame")
    return found


def load_rows(spec: str) -> Rows:
    """Read the rows that `spec` names: inputs (rows, features) float64, all finite, and targets (rows,).

    The last column of a table is the target. Targets are float64 unless they belong to a built-in task or a FILE.py;
    `Task.fit` converts them to classes.

    Raises:
        BadData, BadConfiguration: as `load_data`; or cells that are not numbers.
    """
    found = load_data(spec)
    return found if isinstance(found, Rows) else positional(found)


def files_of(spec: str) -> list[Path]:
    """Return the files that hold the data of `spec`, whether they exist or not; none if it names no file.

    Raises:
        OSError: a folder cannot be read.
    """
    part = _PART.fullmatch(spec)
    if part:
        spec = part["source"]
    if spec in TASK_NAMES:
        return []  # whatever files there are of this name
    return [Path(spec)] if spec.endswith(".py") else files_of_source(spec)
