"""Tables and rows from files, folders, databases, queries and functions."""

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedmq.data.arrays import read_npy, read_npz
from fedmq.data.duck import literals_of, read_parquet, read_query
from fedmq.data.json_records import read_json
from fedmq.data.limits import check_values
from fedmq.data.sqlite import read_sqlite
from fedmq.data.text import YES_OR_NO, read_text_table, text_options
from fedmq.data.workbook import read_workbook
from fedmq.errors import BadData, named
from fedmq.runtime.python_file import importable
from fedmq.tables.table import Column, Table, cell_text, text
from fedmq.tasks.task import Rows, as_rows

FORMS = (
    "a .csv, .tsv, .txt, .data, .npz, .npy, .parquet, .json, .xlsx or .db file, a folder of them, "
    "\"SELECT ... FROM 'rows.csv'\", or module:function"
)
Options = Mapping[str, str]
_Reader = Callable[[Path, Sequence[str], Options], Table]

_QUERY = re.compile(r"\s*(?:select|with|from)\s", re.IGNORECASE)
_FUNCTION = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")


def read_source(spec: str, names: Sequence[str] = ()) -> Table | Rows | None:
    """Return the table that `spec` names, or the rows that its function returns; None if it has no such form.

    Raises:
        BadData: it cannot be read.
    """
    if is_query(spec):
        return read_query(spec, _read_literal)
    path, options = _split(spec)
    if spec and path.is_dir():
        return _read_folder(path, names)
    if suffix_of(path) in _READERS:
        return _read_file(path, names, options)
    function = _FUNCTION.fullmatch(spec)
    return _call(function["module"], function["function"]) if function else None


def files_of_source(spec: str) -> list[Path]:
    """Return the files that hold the data of `spec`, whether they exist or not; none if it names no file.

    Raises:
        OSError: a folder cannot be read.
    """
    if is_query(spec):
        paths = [_split(literal)[0] for literal in literals_of(spec)]
        several = [
            found for path in paths if "*" in path.name and not path.is_absolute() for found in Path().glob(str(path))
        ]
        return [path for path in (*paths, *sorted(several)) if path.is_file()]
    path = _split(spec)[0]
    if path.is_dir():
        return _files_in(path)
    return [path] if suffix_of(path) in _READERS else []


def is_query(spec: str) -> bool:
    """Return whether `spec` is a query of SQL."""
    return bool(_QUERY.match(spec))


def suffix_of(path: Path) -> str:
    """Return the suffix of a file without that of gzip, in small letters."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def _split(spec: str) -> tuple[Path, Options]:
    """Return the path and the options of FILE?key=value&key=value; a query is the last one."""
    name, _, rest = spec.partition("?")
    if not rest or Path(spec).exists():
        return Path(spec), {}
    options = {}
    while rest:
        key, _, rest = rest.partition("=")
        options[key], _, rest = (rest, "", "") if key == "query" else rest.partition("&")
    return Path(name), options


def _read_file(path: Path, names: Sequence[str], options: Options) -> Table:
    read, known = _READERS[suffix_of(path)]
    if unknown := next((key for key in options if key not in known), None):
        some = ", ".join(known) or "none"
        raise BadData(f"{path}: expected options of this format, which are {some}, got {unknown!r:.40}: correct it")
    return read(path, names, options)


def _read_literal(literal: str) -> Table | None:
    """Return the table that a text in a query names; None if it names no file here, or one that DuckDB reads itself."""
    path, options = _split(literal)
    known = suffix_of(path) in _READERS.keys() - {".parquet"} and path.is_file()
    if not known or not path.resolve().is_relative_to(Path.cwd().resolve()):
        return None
    table = _read_file(path, (), options)
    table.check()
    return table


def _yes(options: Options, key: str, path: Path) -> bool | None:
    """Return the value of an option that is yes or no, None if it is not given."""
    if (value := options.get(key)) is not None and value not in YES_OR_NO:
        raise BadData(f"{path}: expected {key}=yes or {key}=no, got {value!r:.40}: correct it")
    return None if value is None else YES_OR_NO[value]


def _text(path: Path, names: Sequence[str], options: Options) -> Table:
    return read_text_table(path, names, text_options(options, str(path)))


def _workbook(path: Path, names: Sequence[str], options: Options) -> Table:
    return read_workbook(path, names, options.get("sheet"), _yes(options, "header", path))


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a folder that have rows: not those of databases, and no .txt, which may be a note."""
    return sorted(
        path for path in folder.iterdir() if path.name[0] not in "._" and suffix_of(path) in _READERS.keys() - _ALONE
    )


def _read_folder(folder: Path, names: Sequence[str]) -> Table:
    paths = _files_in(folder)
    if not paths:
        raise BadData(f"{folder}: expected .csv, .npz, .npy, .parquet, .json or .xlsx files, got none: put one there")
    tables: list[Table] = []
    for path in paths:
        table = _read_file(path, names, {})
        table.check()
        if tables and set(table.names) != set(tables[0].names):
            raise BadData(f"{path}: expected the columns of {paths[0].name}, {_unlike(tables[0], table)}")
        tables.append(table)
        check_values(sum(each.num_rows * len(each.names) for each in tables), folder)
    if len(tables) == 1:
        return tables[0]
    if any(table.decimal != tables[0].decimal for table in tables):
        tables = [table.with_points() for table in tables]
    columns = {name: _joined([table.columns[name] for table in tables]) for name in tables[0].names}
    notes = tuple(f"{path.name}: {note}" for path, table in zip(paths, tables, strict=True) for note in table.notes)
    lines = np.concatenate([table.lines for table in tables])
    return Table(str(folder), tables[0].names, columns, len(lines), lines, notes, tables[0].decimal)


def _unlike(first: Table, other: Table) -> str:
    """Return what differs between the columns of two files, and what to do."""
    if len(first.names) != len(other.names):
        return f"{len(first.names)} of them, got {len(other.names)}: keep files of one kind in a folder"
    name = next(name for name in other.names if name not in first.columns)
    return f"got {name!r:.40} that is not there: keep files of one kind in a folder"


def _joined(pieces: Sequence[Column]) -> Column:
    """Return the pieces of a column as one: text if one of them is."""
    if all(piece.dtype.kind == "f" for piece in pieces):
        return np.concatenate(pieces)
    return np.concatenate(
        [piece if piece.dtype.kind == "O" else text(list(map(cell_text, piece.tolist()))) for piece in pieces]
    )


def _call(module: str, function: str) -> Table | Rows:
    source = f"{module}:{function}"
    with importable(Path.cwd()):
        try:
            found = getattr(importlib.import_module(module), function, None)
        except (Exception, SystemExit) as error:
            raise BadData(
                f"{source}: expected a module to import, got {named(error)}: start where the module is, or install it"
            ) from error
        if not callable(found):
            raise BadData(f"{source}: expected a function, got {type(found).__name__}: define {function} in {module}")
        try:
            returned = found()
        except (Exception, SystemExit) as error:
            raise BadData(f"{source}: expected a data frame or (inputs, targets), got {named(error)}") from error
    rows = _returned(returned, source)
    check_values(rows.num_rows * len(rows.names) if isinstance(rows, Table) else rows.inputs.size, source)
    return rows


def _returned(returned: Any, source: str) -> Table | Rows:
    """Return what a function returned: a data frame, a pair of arrays, or a data frame and its targets."""
    if not isinstance(returned, tuple | list):
        if isinstance(returned, Mapping) or hasattr(returned, "columns"):
            return Table.from_frame(returned, source)
        raise BadData(
            f"{source}: expected a data frame or a pair (inputs, targets), got {type(returned).__name__}: return one"
        )
    if len(returned) != 2:
        raise BadData(f"{source}: expected a pair (inputs, targets), got {len(returned)} values: return two arrays")
    inputs, targets = returned
    if not hasattr(inputs, "columns"):
        return as_rows(inputs, targets, source)
    columns = {name: inputs[name] for name in inputs.columns}
    return Table.from_frame({**columns, getattr(targets, "name", None) or "y": targets}, source)


_TEXT: tuple[_Reader, tuple[str, ...]] = (_text, ("separator", "decimal", "header", "encoding"))
_WORKBOOK: tuple[_Reader, tuple[str, ...]] = (_workbook, ("sheet", "header"))
_JSON: tuple[_Reader, tuple[str, ...]] = (lambda path, _names, _options: read_json(path), ())
_SQLITE: tuple[_Reader, tuple[str, ...]] = (
    lambda path, _names, options: read_sqlite(path, options.get("table"), options.get("query")),
    ("table", "query"),
)
_READERS: Mapping[str, tuple[_Reader, tuple[str, ...]]] = {
    **dict.fromkeys((".csv", ".tsv", ".tab", ".txt", ".data", ".dat"), _TEXT),
    ".npz": (lambda path, _names, options: read_npz(path, flatten=bool(_yes(options, "flatten", path))), ("flatten",)),
    ".npy": (lambda path, _names, options: read_npy(path, flatten=bool(_yes(options, "flatten", path))), ("flatten",)),
    ".parquet": (lambda path, _names, _options: read_parquet(path), ()),
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _JSON),
    **dict.fromkeys((".xlsx", ".xlsm", ".xlsb", ".xls", ".ods"), _WORKBOOK),
    **dict.fromkeys((".db", ".sqlite", ".sqlite3"), _SQLITE),
}
_ALONE = frozenset({".txt", ".db", ".sqlite", ".sqlite3"})  # not in a folder
