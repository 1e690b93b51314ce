"""Tables of SQLite databases, which are opened to read only."""

import sqlite3
from pathlib import Path

from fedmq.data.limits import check_columns, check_values, open_file
from fedmq.data.structure import unique_names
from fedmq.errors import BadData
from fedmq.tables.table import Table

ROWS_AT_ONCE = 10_000
_ALLOWED = frozenset({sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE})


def read_sqlite(path: Path, table: str | None = None, query: str | None = None) -> Table:
    """Read a table of a database, or the result of a SELECT; without either, the only table there is.

    Raises:
        BadData: the database cannot be read, has several tables or not this one, or the query is no SELECT.
    """
    with open_file(path):  # that it is a regular file
        pass
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY)
        if query is None:
            quoted = _one_of(connection, table, path).replace('"', '""')
            query = f'SELECT * FROM "{quoted}"'  # noqa: S608
        cursor = connection.execute(query)
        if cursor.description is None:
            raise BadData(f"{path}: expected a SELECT, got {query!r:.60}: write one SELECT")
        names = unique_names([str(name) for name, *_ in cursor.description])
        check_columns(len(names), path)
        rows: list[tuple[object, ...]] = []
        while block := cursor.fetchmany(ROWS_AT_ONCE):
            rows += block
            check_values(len(rows) * len(names), path)
    except sqlite3.Error as error:
        raise BadData(f"{path}: expected rows of a database, got {error}: correct the file or the query") from error
    finally:
        connection.close()
    if not rows:
        raise BadData(f"{path}: expected at least one row, got zero rows: add rows")
    return Table.from_frame(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)), str(path))


def _one_of(connection: sqlite3.Connection, table: str | None, path: Path) -> str:
    """Return the table that is asked for, if it is there."""
    there = "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY name"
    names = [str(name) for (name,) in connection.execute(there)]
    if table is None and len(names) == 1:
        return names[0]
    if table not in names or table is None:
        some = ", ".join(names[:10]) or "none"
        expected = "one table" if table is None else f"a table {table!r:.40}"
        raise BadData(f"{path}: expected {expected}, got {some}: add ?table=NAME or ?query=SELECT ...")
    return table
