"""From the cells of a table to numbers, by the schema of the task."""

from collections.abc import Mapping
from dataclasses import dataclass

from fedmq.exact.integers import Floats, Integers
from fedmq.tables.schema import Schema
from fedmq.tables.table import Table


@dataclass(frozen=True, eq=False)
class Encoded:
    """The rows of a table as numbers.

    `columns` (rows, schema columns) float64 has numbers, ordinals and categories as 0, 1, ... in the order of the
    schema, booleans as 0 and 1, dates as days since 1970-01-01, and NaN for what is missing or not listed. `targets`
    (rows,) are int64 classes or float64 values. Rows without a target are left out.
    """

    columns: Floats
    targets: Floats | Integers
    weights: Floats | None  # (rows,); None if the schema has no weights
    offsets: Floats | None
    places: Integers  # (rows,): where each of them stands in the table, counted from 0
    left_out: Mapping[str, int]  # rows that were left out, by reason
    notes: tuple[str, ...]  # what does not fit and is no fault, one line each


def encode_table(schema: Schema, table: Table, *, targets: bool = True) -> Encoded:
    """Return the rows that the schema describes; its columns are found by name, in any order.

    Without `targets` the table is one to predict for: the columns target and weight may be absent.

    Raises:
        BadData: columns that are missing, cells of another kind, labels that are not listed: all of them, one line
            each, with the count, the first cell and what to do.
    """
    raise NotImplementedError
