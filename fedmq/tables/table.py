"""A table as a reader returns it: columns by name, without a decision about their kinds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from fedmq.exact.integers import Integers

Column = npt.NDArray[Any]  # float64 with NaN for empty cells if all others are plain numbers; else text, "" if empty


@dataclass(frozen=True, eq=False)
class Table:
    """The cells of a file, a query or a data frame.

    A column is (num_rows,): float64 with NaN for empty cells if all other cells are plain numbers, else str with ""
    for empty cells. `lines` (num_rows,) says where each row stands in the source, counted from 1, for errors.
    """

    source: str  # names the table in errors
    names: tuple[str, ...]
    columns: Mapping[str, Column]
    num_rows: int
    lines: Integers
    notes: tuple[str, ...] = ()  # what was noticed while reading, such as an encoding; said once
