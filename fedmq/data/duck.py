"""Parquet files and SQL queries over files, by DuckDB, locked to the files of one folder.

A query is often written by another site. So it is one SELECT, reads nothing outside the folder, loads no extension,
reaches no network, and sees no variable of this process.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedmq.data.limits import VALUES_MAX, check_columns, check_values, open_file
from fedmq.data.structure import unique_names
from fedmq.errors import BadData, one_line
from fedmq.tables.table import Column, Table

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "allow_unsigned_extensions": "false",
    "python_enable_replacements": "false",  # else a query reads variables of this process
}
_LOCKS = ("SET temp_directory=''", "SET enable_external_access=false", "SET lock_configuration=true")  # in this order
_NUMBER = re.compile(r"U?(?:TINY|SMALL|BIG|HUGE)?INT(?:EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)")
_TIME = re.compile(r"DATE|TIMESTAMP(?:_S|_MS|_NS)?")
_NESTED = re.compile(r".*\]|(?:STRUCT|MAP|UNION)\(.*")
_LITERAL = re.compile(r"'((?:[^']|'')+)'")


def read_parquet(path: Path) -> Table:
    """Read a Parquet file.

    Raises:
        BadData: DuckDB is not installed, the file cannot be read, or a column holds lists or the like.
    """
    with open_file(path):  # that it is a regular file
        pass
    real = path.resolve()
    return _read(f"FROM read_parquet({_quoted(str(real))})", real.parent, str(path), {})


def read_query(query: str, read: Callable[[str], Table | None]) -> Table:
    """Read the result of a SELECT over files in the working directory and below, such as 'north.csv'.

    `read` returns the table that a literal of the query names, or None. So a file of text has the same columns in a
    query and without one; DuckDB would guess the types, and make booleans of no and yes.

    Raises:
        BadData: DuckDB is not installed, the query fails, is not one SELECT, or reads elsewhere; as `read`.
    """
    tables = {name: table for name in literals_of(query) if (table := read(name)) is not None}
    return _read(query, Path.cwd(), f"query {query!r:.60}", tables)


def literals_of(query: str) -> list[str]:
    """Return the texts in quotes of a query, each once: names of files among them."""
    return list(dict.fromkeys(literal.replace("''", "'") for literal in _LITERAL.findall(query)))


def _read(query: str, folder: Path, source: str, tables: Mapping[str, Table]) -> Table:
    try:
        import duckdb
    except ImportError as error:
        raise BadData(f'{source}: expected DuckDB, got {error}: pip install "fedmq[tables]"') from error
    connection = duckdb.connect(":memory:", config=_CONFIG)
    try:
        connection.execute("SET allowed_directories=[?]", [f"{folder.resolve()}/"])
        for lock in _LOCKS:
            connection.execute(lock)
        for name, table in tables.items():
            connection.register(name, {column: _nullable(cells) for column, cells in table.columns.items()})
        statements = connection.extract_statements(query)
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise BadData(f"{source}: expected one SELECT, got another statement: write one SELECT")
        return _table(connection, query.strip().rstrip(";"), source)
    except (duckdb.Error, UnicodeDecodeError) as error:
        raise BadData(
            f"{source}: expected rows of files in {folder} and below, got {one_line(error)}: correct it"
        ) from error
    finally:
        connection.close()


def _table(connection: Any, query: str, source: str) -> Table:
    relation = connection.sql(query)
    types = [str(one) for one in relation.types]
    names = unique_names(relation.columns)
    check_columns(len(names), source)
    if nested := [
        f"column {name}: expected one value a row, got {kind:.40}"
        for name, kind in zip(names, types, strict=True)
        if _NESTED.fullmatch(kind)
    ]:
        raise BadData(f"{source}, {'; '.join(nested)}: unnest it, or leave the column out")
    numbered = ", ".join(_quoted(f"c{place}", '"') for place in range(len(names)))
    chosen = ", ".join(_converted(f'"c{place}"', kind) for place, kind in enumerate(types))
    rows_max = VALUES_MAX // max(1, len(names))
    found = connection.sql(f"SELECT {chosen} FROM ({query}\n) AS t({numbered}) LIMIT {rows_max + 1}").fetchnumpy()  # noqa: S608
    columns = {name: _filled(array) for name, array in zip(names, found.values(), strict=True)}
    rows = len(next(iter(columns.values()), ()))
    check_values(rows * len(names), source)
    if not rows:
        raise BadData(f"{source}: expected at least one row, got zero rows: add rows")
    return Table.from_frame(columns, source)


def _converted(column: str, kind: str) -> str:
    """Return the expression for a column of a type: numbers as float64, booleans and anything else as text."""
    if _NUMBER.fullmatch(kind):
        return f"CAST({column} AS DOUBLE) AS {column}"
    if _TIME.fullmatch(kind):
        return column
    if kind == "BOOLEAN":
        return f"CASE WHEN {column} THEN 'True' WHEN NOT {column} THEN 'False' END AS {column}"
    return f"CAST({column} AS VARCHAR) AS {column}"


def _filled(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a column with NaN, NaT or None where DuckDB has a null."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    filled = array.data.copy()
    filled[np.ma.getmaskarray(array)] = {"f": np.nan, "M": "NaT"}.get(array.dtype.kind)
    return filled


def _nullable(column: Column) -> Column:
    """Return a column with None for empty cells of text; DuckDB takes NaN and None for NULL."""
    if column.dtype.kind == "f":
        return column
    nullable = column.copy()
    nullable[column == ""] = None
    return nullable


def _quoted(name: str, quote: str = "'") -> str:
    return quote + name.replace(quote, 2 * quote) + quote
