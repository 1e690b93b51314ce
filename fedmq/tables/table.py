"""Tables: the columns of a site by name, before a task gives them a kind."""

import datetime
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadData, BadTable
from fedmq.exact.integers import Floats, Integers

Column = npt.NDArray[Any]  # float64, or text: object, each element a str
Decimal = Literal[".", ","]

EXACT_INTEGER_MAX = 1 << 53  # float64 holds every smaller integer
INTEGER_DIGITS_MAX = 1e22  # larger numbers are no identifiers

# Without 1_000, 0x10, inf and digits of other scripts, which `float` accepts.
# Possessive: a cell of many digits and something else would take time quadratic in its length.
_NUMBER = re.compile(r"[+-]?(?:[0-9]++\.?+[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]{1,4})?")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?")  # 1,234,567.5
_SWAPPED = str.maketrans(".,", ",.")


class TableFault(NamedTuple):
    """What is wrong with a table: one line for the operator, and one without any of its cells for others."""

    text: str
    public: str


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a site, as they are in its file: no column has a kind, no cell is corrected.

    `columns` has each of `names` once, of shape (rows,): float64 with NaN for an empty cell if all other cells are
    numbers; else text, an object array of str with "" for an empty cell. `lines` (rows,) int64 are the lines of the
    source, or the numbers of rows from 1, and name a row in errors. `notes` are remarks for the operator, to be logged
    once.
    """

    source: str
    names: tuple[str, ...]
    columns: Mapping[str, Column]
    num_rows: int
    lines: Integers
    notes: tuple[str, ...] = ()
    decimal: Decimal = "."  # in the cells of text columns
    faults: tuple[TableFault, ...] = ()  # lines that could not be read: to be raised together with those of cells

    def check(self) -> None:
        """Check that all lines could be read, for a use that looks at no cell.

        Raises:
            BadTable: there are faults.
        """
        if self.faults:
            raise BadTable(self.source, [fault.text for fault in self.faults], [fault.public for fault in self.faults])

    def part(self, part: int, parts: int) -> "Table":
        """Return one of so many parts of the rows, in their order; sizes differ by one row at most.

        Raises:
            BadData: there is no such part, or it has no row.
        """
        if not 1 <= part <= parts:
            raise BadData(f"{self.source}: expected a part from 1 to {parts}, got {part}")
        if parts > self.num_rows:
            raise BadData(f"{self.source}: expected at most {self.num_rows} parts, one for each row, got {parts}")
        start, end = (self.num_rows * place // parts for place in (part - 1, part))
        columns = {name: column[start:end] for name, column in self.columns.items()}
        return replace(self, columns=columns, num_rows=end - start, lines=self.lines[start:end])

    def with_points(self) -> "Table":
        """Return the table with the decimal sign "." in the numbers of text columns."""
        if self.decimal == ".":
            return self
        columns = {
            name: column if column.dtype.kind == "f" else text([_with_point(cell) for cell in column.tolist()])
            for name, column in self.columns.items()
        }
        return replace(self, columns=columns, decimal=".")

    @classmethod
    def from_frame(cls, frame: object, source: str = "data frame") -> "Table":
        """Return the table of a data frame: of pandas, of polars, or any mapping of columns by name.

        Dates become text as ISO 8601, booleans `True` and `False`, and None, NaN, NaT and <NA> empty cells. The index
        of a data frame is no column.

        Raises:
            BadData: it has no columns by name, columns of unequal lengths, or cells that are lists or the like.
        """
        names = _names_of(frame, source)
        by_name = cast(Mapping[Any, Any], frame)
        columns, notes = {}, list[str]()
        for name in names:
            cells = by_name[name]
            to_numpy = getattr(cells, "to_numpy", None)
            array = _as_array(to_numpy() if to_numpy else cells)
            if array.ndim != 1:
                raise BadData(f"{source}, column {name}: expected one value a row, got shape {array.shape}: split it")
            columns[str(name)] = as_column(array, f"{source}, column {name}")
            if array.dtype.kind != "f" and has_large_integers(columns[str(name)]):
                notes.append(large_integers_note(str(name)))
        lengths = {len(column) for column in columns.values()}
        if len(lengths) > 1 or len(columns) < len(names):
            got = f"{min(lengths)} to {max(lengths)} rows" if len(lengths) > 1 else "two of one name"
            raise BadData(f"{source}: expected columns of one length with a name each, got {got}: correct them")
        num_rows = lengths.pop() if lengths else 0
        return cls(source, tuple(columns), columns, num_rows, np.arange(1, num_rows + 1), tuple(notes))


def numbers(cells: Sequence[str], decimal: Decimal = ".") -> Floats | None:
    """Return the numbers of cells (rows,) float64, NaN for an empty cell; None if another cell is not a number.

    A number is written in ASCII digits, with `decimal` and perhaps an exponent; the other sign may group thousands.
    White space around it does not count. What float64 cannot hold is not a number.
    """
    joined = "".join(cells)
    plain = joined.isascii() and "_" not in joined and "," not in joined
    if plain and (decimal == "." or "." not in joined):
        with suppress(ValueError):
            empty = cells.count("")
            found = np.array([float(cell) if cell else np.nan for cell in cells] if empty else list(map(float, cells)))
            if np.count_nonzero(np.isfinite(found)) == len(cells) - empty:
                return found
    stripped = [cell.strip() for cell in cells]
    if decimal == ",":
        stripped = [cell.translate(_SWAPPED) for cell in stripped]
    if not all(not cell or _NUMBER.fullmatch(cell) or _GROUPED.fullmatch(cell) for cell in stripped):
        return None
    found = np.array([float(cell.replace(",", "")) if cell else np.nan for cell in stripped])
    return None if np.isinf(found).any() else found


def is_number(cell: str, decimal: Decimal = ".") -> bool:
    """Return whether a cell is a number; an empty one is not."""
    return bool(cell.strip()) and numbers([cell], decimal) is not None


def _with_point(cell: str) -> str:
    """Return a number with a decimal comma as one with a point; any other cell as it is."""
    return cell.translate(_SWAPPED) if is_number(cell, ",") else cell


def text(cells: Sequence[str]) -> Column:
    """Return cells as a column of text, (rows,) object, without white space around them; equal cells are one object."""
    stripped = {cell: cell.strip() for cell in set(cells)}
    column = np.empty(len(cells), object)
    column[:] = [stripped[cell] for cell in cells]
    return column


def as_column(values: npt.NDArray[Any], source: str) -> Column:
    """Return an array (rows,) of any dtype as a column; `source` names it in errors.

    Raises:
        BadData: a cell is a list or another value that is neither a number, text, a boolean nor a time.
    """
    if values.dtype.kind in "iuf":
        return values.astype(np.float64)
    if values.dtype.kind == "M":
        seconds = np.datetime_as_string(values, unit="s") if values.dtype != "M8[D]" else values.astype(str)
        return text(["" if cell == "NaT" else cell.removesuffix("T00:00:00") for cell in seconds.tolist()])
    cells = [cell_text(cell, f"{source}, row {row}") for row, cell in enumerate(values.tolist(), 1)]
    found = numbers(cells)
    return text(cells) if found is None else found


def has_large_integers(column: Column) -> bool:
    """Return whether a column has numbers that may be integers of many digits, which float64 rounds."""
    if column.dtype.kind != "f":
        return False
    size = np.abs(column)
    return bool(((size > EXACT_INTEGER_MAX) & (size < INTEGER_DIGITS_MAX)).any())


def large_integers_note(name: str) -> str:
    """Return the note about a column with `has_large_integers`."""
    return f"column {name}: numbers above 2^53 lose their last digits; if it is an identifier, ignore it"


def _names_of(frame: object, source: str) -> list[Any]:
    """Return the names of the columns of a data frame."""
    found = getattr(frame, "columns", None)
    if found is None and isinstance(frame, Mapping):
        found = list(frame)
    if found is None or not hasattr(frame, "__getitem__"):
        raise BadData(f"{source}: expected a data frame or columns by name, got {type(frame).__name__}: return one")
    return list(found)


def _as_array(cells: Any) -> npt.NDArray[Any]:
    """Return cells as an array; cells of several types stay as they are."""
    if isinstance(cells, np.ndarray):
        return cells
    with suppress(ValueError):  # lists of unequal lengths
        alike = np.asarray(cells)
        if alike.dtype.kind not in "SU":
            return alike
    array = np.empty(len(cells), object)
    for place, cell in enumerate(cells):
        array[place] = cell
    return array


def cell_text(cell: object, source: str = "") -> str:
    """Return the text of a cell of any type; `source` names it in errors.

    Raises:
        BadData: it is a list or the like.
    """
    if isinstance(cell, str):
        return cell.strip()
    if cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell:
        return ""
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell.is_integer() and abs(cell) < EXACT_INTEGER_MAX else repr(float(cell))
    if isinstance(cell, bytes):
        return cell.decode("utf-8", "replace").strip()
    if isinstance(cell, datetime.datetime):
        return cell.isoformat(timespec="seconds").removesuffix("T00:00:00")
    if isinstance(cell, datetime.date | datetime.time):
        return cell.isoformat()
    if isinstance(cell, list | tuple | dict | set) or (hasattr(cell, "__array__") and np.ndim(cast(Any, cell))):
        raise BadData(f"{source}: expected one value, got {type(cell).__name__}: split the column, or leave it out")
    return str(cell)
