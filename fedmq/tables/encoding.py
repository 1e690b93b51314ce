"""From the cells of a table to numbers, by the schema of the task."""

from __future__ import annotations

import datetime
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadTable
from fedmq.exact.integers import Floats, Integers
from fedmq.tables import table as cells_of
from fedmq.tables.labels import FALSE, TRUE, codes_of, label_key
from fedmq.tables.schema import Column, DateForm, Schema, Target
from fedmq.tables.table import Table

NAMES_SHOWN_MAX = 8
NAMES_COMPARED_MAX = 1000  # with a name that is not there
CHARACTERS_COMPARED_MAX = 40  # of each of them: the work grows with the square
HINTS_MAX = 20  # nearest names for one table: a task of another kind has thousands of unknown ones
ValuesOf = Callable[[list[str]], Sequence[float | None]]  # the values of distinct cells; None: it is no value
_SECONDS_OF_DAY = 86_400
_EPOCH = datetime.date(1970, 1, 1).toordinal()
_TIME = r"(?:[T ](?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.[0-9]+)?)?(?:Z|\+00:?00)?)?"
_PARTS = {"YYYY": "year", "MM": "month", "DD": "day"}


@dataclass(frozen=True, eq=False)
class Encoded:
    """The rows of a table as numbers.

    `columns` (rows, schema columns) float64 has numbers, ordinals and categories as 0, 1, ... in the order of the
    schema, booleans as 0 and 1, dates as days since 1970-01-01, and NaN for what is missing or not listed. `targets`
    (rows,) are int64 classes or float64 values, empty if they were not asked for. Rows without a target are left out.
    """

    columns: Floats
    targets: Floats | Integers
    weights: Floats | None  # (rows,); None if the schema has no weights
    offsets: Floats | None
    places: Integers  # (rows,): where each of them stands in the table, counted from 0
    left_out: Mapping[str, int]  # rows that were left out, by reason
    unlisted: Mapping[str, int]  # cells of a category that the schema does not list, by column
    notes: tuple[str, ...]  # what does not fit and is no fault, one line each


def encode_table(schema: Schema, table: Table, *, targets: bool = True) -> Encoded:
    """Return the rows that the schema describes; its columns are found by name, in any order.

    Without `targets` the table is one to predict for: the columns target and weight are not read, and no row is left
    out.

    Raises:
        BadTable: columns that are missing, cells of another kind, labels that are not listed: all of them, one line
            each, with the count, the first cell and what to do.
    """
    return _Encoding(schema, table, targets).encode()


@dataclass
class _Encoding:
    """One table on its way; collects faults and notes."""

    schema: Schema
    table: Table
    learning: bool  # with targets; else the schema is a trained model's, and no task can be edited
    faults: list[str] = field(default_factory=list)
    public: list[str] = field(default_factory=list)  # the same without a cell of the table
    notes: list[str] = field(default_factory=list)
    unlisted: dict[str, int] = field(default_factory=dict)
    hints: int = 0

    def encode(self) -> Encoded:
        schema, rows, targets = self.schema, self.table.num_rows, self.learning
        for fault in self.table.faults:
            self._fault(fault.text, fault.public)
        if rows == 0:
            self._fault("expected at least one row, got none: check the file", "expected at least one row, got none")
        columns = np.full((rows, len(schema.columns)), np.nan)
        for place, column in enumerate(schema.columns):
            if (cells := self._cells(column.name)) is not None:
                columns[:, place] = self._column(column, cells)
        offsets = self._of_rows(schema.offset, "offset")
        weights = self._of_rows(schema.weight, "weight") if targets else None
        values = self._targets(schema.target) if targets else np.empty(0)
        self._say_unused()
        keep, left_out = self._kept(columns, values) if targets else (np.ones(rows, bool), {})
        if rows and not self.faults and not keep.any():
            why = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
            self._fault(f"expected at least one row to learn from, got none: {why}", "no row is left to learn from")
        if self.faults:
            raise BadTable(self.table.source, self.faults, self.public)
        kept = columns if keep.all() else columns[keep]
        for place, column in enumerate(schema.columns):
            if np.isnan(kept[:, place]).all():
                self.notes.append(f"column {column.name}: no values in this table")
        chosen = values[keep] if targets else values
        return Encoded(
            columns=kept,
            targets=chosen.astype(np.int64) if schema.target.kind == "class" else chosen,
            weights=None if weights is None else weights[keep],
            offsets=None if offsets is None else offsets[keep],
            places=np.flatnonzero(keep),
            left_out=left_out,
            unlisted=self.unlisted,
            notes=(*self.table.notes, *self.notes),
        )

    def _cells(self, name: str) -> npt.NDArray[np.generic] | None:
        """Return the cells of the column of this name; None if there is none, which is a fault."""
        if name in self.table.columns:
            return self.table.columns[name]
        hint = self._near(name, self._unknown)
        if hint is not None:
            rename = "rename it in the table" + ", or in the task for all sites" * self.learning
            self._fault(
                f"expected column {name}, found {hint!r:.80}: {rename}",
                f"expected column {name}, found none",
            )
        else:
            some = ", ".join(f"{other!r:.40}" for other in self.table.names[:NAMES_SHOWN_MAX])
            more = len(self.table.names) - NAMES_SHOWN_MAX
            some += f" and {more} more" if more > 0 else ""
            self._fault(
                f"expected column {name}, got {some or 'no columns'}: add it, or rename the one that has it",
                f"expected column {name}, found none",
            )
        return None

    def _column(self, column: Column, cells: npt.NDArray[np.generic]) -> Floats:
        """Return the numbers of one input column, NaN for what is missing or not listed."""
        missing = self._missing.union(map(label_key, column.missing_cells))
        where = f"column {column.name}"
        match column.kind:
            case "number":
                return self._numbers(where, cells, missing, column.strip)
            case "boolean":
                known = {label_key(word): float(word in TRUE) for word in TRUE | FALSE}
                advice = self._advice("correct the cells, or make the column a category")
                return self._lookup(
                    where,
                    "true or false",
                    advice,
                    cells,
                    missing,
                    _each(lambda cell: known.get(label_key(cell.lower()))),
                )
            case "date":
                advice = self._advice("correct the cells, or set the form of the column")
                pattern = pattern_of(column.form)
                return self._lookup(
                    where, f"dates as {column.form}", advice, cells, missing, _each(lambda cell: days(cell, pattern))
                )
            case "category" | "ordinal":
                return self._listed(column, cells, missing)

    def _numbers(
        self, where: str, cells: npt.NDArray[np.generic], missing: frozenset[object], strip: str = ""
    ) -> Floats:
        if cells.dtype.kind == "f":
            return self._finite(where, cells.astype(np.float64), missing)

        def numbers(texts: list[str]) -> Sequence[float | None]:
            stripped = [text.replace(strip, "").strip() for text in texts] if strip else texts
            if (found := cells_of.numbers(stripped, self.table.decimal)) is not None and all(stripped):
                return list(map(float, found))
            each = [cells_of.numbers([text], self.table.decimal) if text else None for text in stripped]
            return [None if one is None else float(one[0]) for one in each]

        def advice(odd: Counter[str]) -> str:
            return self._advice(_advice_for_numbers(odd, len(cells), self.table.decimal))

        return self._lookup(where, "numbers", advice, cells, missing, numbers)

    def _finite(self, where: str, values: Floats, missing: frozenset[object]) -> Floats:
        """Return a column of numbers, with NaN for those that mean missing."""
        if markers := [one for one in missing if isinstance(one, int | float)]:
            values = np.where(np.isin(values, markers), np.nan, values)
        if (bad := np.isinf(values)).any():
            self._cells_fault(where, "finite numbers", "infinity", bad, "correct or empty the cells")
        return values

    def _listed(self, column: Column, cells: npt.NDArray[np.generic], missing: frozenset[object]) -> Floats:
        """Return the codes of a category or an ordinal; what is not listed is missing, counted and noted."""
        codes = codes_of(column.categories)
        found, odd = _look_up(cells, missing - codes.keys(), _each(lambda cell: codes.get(label_key(cell))))
        if odd:
            count, first = sum(odd.values()), next(iter(odd))
            self.unlisted[column.name] = count
            near = self._near(first, column.categories)
            others = f" and {len(odd) - 1} more" if len(odd) > 1 else ""
            self.notes.append(
                f"column {column.name}: {count} of {len(cells)} cells are not listed and count as missing, "
                f"{first!r:.40} at line {self._line(cells, first)}{others}"
                + (f"; the nearest that is listed is {near!r:.40}" if near else "")
            )
        return found

    def _targets(self, target: Target) -> Floats:
        """Return the class, the number or the count of each row (rows,), NaN for a missing one."""
        where, rows = f"target {target.name}", self.table.num_rows
        if (cells := self._cells(target.name)) is None:
            return np.full(rows, np.nan)
        missing = self._missing
        if target.kind == "class":
            codes = codes_of(target.classes)
            some = ", ".join(target.classes[:NAMES_SHOWN_MAX])
            some += f" and {len(target.classes) - NAMES_SHOWN_MAX} more" * (len(target.classes) > NAMES_SHOWN_MAX)

            def advice(odd: Counter[str]) -> str:
                near = self._near(next(iter(odd)), target.classes)
                correct = f"correct the cells ({near} is listed)" if near else "correct the cells"
                return f"{correct}, or add the class to the task for all sites"

            of_cell = _each(lambda cell: codes.get(label_key(cell)))
            found = self._lookup(where, f"one of the classes {some}", advice, cells, missing - codes.keys(), of_cell)
        else:
            found = self._numbers(where, cells, missing)
            if target.kind == "count" and (bad := (found < 0) | (found != np.floor(found)) & ~np.isnan(found)).any():
                self._cells_fault(
                    where, "counts of 0 or more", _shown(cells[bad.argmax()]), bad, "correct them, or predict a number"
                )
        if target.missing == "refuse" and (empty := np.isnan(found)).any() and not self.faults:
            self._cells_fault(where, "a target in each row", "none", empty, 'correct the rows, or set missing = "drop"')
        return found

    def _of_rows(self, name: str, what: str) -> Floats | None:
        """Return the weight or the offset of each row; each must be there, a weight above 0."""
        if not name or (cells := self._cells(name)) is None:
            return None
        where, faults = f"{what} {name}", len(self.faults)
        found = self._numbers(where, cells, self._missing)
        bad = np.isnan(found) | (found <= 0 if what == "weight" else False)
        if bad.any() and len(self.faults) == faults:
            expected = "numbers above 0" if what == "weight" else "numbers"
            self._cells_fault(where, expected, _shown(cells[bad.argmax()]), bad, "correct or drop the rows")
        return found

    def _kept(self, columns: Floats, targets: Floats) -> tuple[npt.NDArray[np.bool_], dict[str, int]]:
        """Return which rows (rows,) stay, and how many do not, by reason; a row counts for its first reason."""
        keep, left_out = np.ones(len(columns), dtype=np.bool_), {}
        reasons = [(f"without {self.schema.target.name}", np.isnan(targets))]
        reasons += [
            (f"without {column.name}", np.isnan(columns[:, place]))
            for place, column in enumerate(self.schema.columns)
            if column.missing == "drop"
        ]
        for reason, gone in reasons:
            if count := int(np.count_nonzero(gone & keep)):
                left_out[reason] = count
                keep &= ~gone
        return keep, left_out

    def _say_unused(self) -> None:
        known = {*self.schema.names(), *self.schema.ignored}
        unused = [f"{name!r:.40}" for name in self.table.names if name not in known]
        if unused and not self.faults:
            more = f" and {len(unused) - NAMES_SHOWN_MAX} more" if len(unused) > NAMES_SHOWN_MAX else ""
            self.notes.append(f"columns that the task does not use: {', '.join(unused[:NAMES_SHOWN_MAX])}{more}")

    def _lookup(
        self,
        where: str,
        expected: str,
        advice: str | Callable[[Counter[str]], str],
        cells: npt.NDArray[np.generic],
        missing: frozenset[object],
        values_of: ValuesOf,
    ) -> Floats:
        """Return the value of each cell, NaN for a missing one; a cell without a value is a fault."""
        found, odd = _look_up(cells, missing, values_of)
        if odd:
            count, first = sum(odd.values()), next(iter(odd))
            do = advice if isinstance(advice, str) else advice(odd)
            got = f"{first!r:.40} at line {self._line(cells, first)} ({count} of {len(cells)} cells)"
            self._fault(f"{where}: expected {expected}, got {got}: {do}", f"{where}: expected {expected}, got others")
        return found

    def _cells_fault(self, where: str, expected: str, got: str, bad: npt.NDArray[np.bool_], advice: str) -> None:
        place, count = int(bad.argmax()), int(np.count_nonzero(bad))
        at = f"at line {self.table.lines[place]} ({count} of {len(bad)} cells)"
        self._fault(f"{where}: expected {expected}, got {got} {at}: {advice}", f"{where}: expected {expected}")

    def _line(self, cells: npt.NDArray[np.generic], cell: str) -> int:
        """Return the line of the first cell with this text."""
        place = next(place for place, one in enumerate(cells.tolist()) if _text_of(one) == cell)
        return int(self.table.lines[place])

    def _advice(self, of_task: str) -> str:
        """Return what to do about cells; `of_task` may edit the task, which a table to predict for does not have."""
        return of_task if self.learning else "correct or empty the cells"

    def _fault(self, text: str, public: str) -> None:
        self.faults.append(text)
        self.public.append(public)

    @cached_property
    def _unknown(self) -> list[str]:
        """The names of the table that the schema does not have."""
        known = set(self.schema.names())
        return [name for name in self.table.names if name not in known]

    @cached_property
    def _missing(self) -> frozenset[object]:
        """The cells of any column that mean missing."""
        return frozenset(map(label_key, self.schema.missing_cells))

    def _near(self, name: str, others: Collection[str]) -> str | None:
        """Return the nearest name for the first HINTS_MAX names."""
        self.hints += 1
        return nearest_name(name, others) if self.hints <= HINTS_MAX else None


def days(cell: str, pattern: re.Pattern[str]) -> float | None:
    """Return the days since 1970-01-01 of a date, with the time of day as a fraction; None if it is none."""
    if (match := pattern.fullmatch(cell)) is None:
        return None
    part = {name: int(text or 0) for name, text in match.groupdict().items()}
    try:
        day = datetime.date(part["year"], part["month"], part.get("day", 1)).toordinal() - _EPOCH
        time = datetime.time(part["hour"], part["minute"], part["second"])
    except ValueError:
        return None
    return day + (time.hour * 3600 + time.minute * 60 + time.second) / _SECONDS_OF_DAY


@cache
def pattern_of(form: DateForm) -> re.Pattern[str]:
    """Return the pattern of dates in this form, for `days`."""
    text, short = re.escape(form), "{2}" if form == "YYYYMMDD" else "{1,2}"
    for name, digits in (("YYYY", "{1,4}" if form == "YYYY-MM" else "{4}"), ("MM", short), ("DD", short)):
        text = text.replace(name, f"(?P<{_PARTS[name]}>[0-9]{digits})")
    return re.compile(text + _TIME)


def _look_up(
    cells: npt.NDArray[np.generic], missing: frozenset[object], values_of: ValuesOf
) -> tuple[Floats, Counter[str]]:
    """Return the value of each cell (rows,), NaN without one; and the cells that have none and do not mean missing.

    Each distinct cell is looked at once.
    """
    if cells.dtype.kind == "f":
        levels, places, counts = np.unique(cells, return_inverse=True, return_counts=True)
        texts, times = [_text_of(level) for level in levels.tolist()], counts.tolist()
    else:
        listed = cells.tolist()
        counted = Counter(listed)
        index = {cell: place for place, cell in enumerate(counted)}
        places = np.fromiter(map(index.__getitem__, listed), np.intp, len(listed))
        texts, times = [_text_of(cell) for cell in counted], list(counted.values())
    has_numbers = any(isinstance(one, int | float) for one in missing)
    here = [
        place
        for place, text in enumerate(texts)
        if text and text not in missing and not (has_numbers and label_key(text) in missing)
    ]
    values, odd = np.full(len(texts), np.nan), Counter[str]()
    for place, value in zip(here, values_of([texts[place] for place in here]), strict=True):
        if value is None:
            odd[texts[place]] += times[place]
        else:
            values[place] = value
    return values[places], odd


def _text_of(cell: object) -> str:
    """Return a cell as it is shown and compared: text without white space around it, a number in its shortest form."""
    if isinstance(cell, float):
        return "" if math.isnan(cell) else _shown(cell)
    return str(cell).strip()


def _shown(cell: object) -> str:
    if isinstance(cell, float):
        return f"{cell:.0f}" if cell.is_integer() and abs(cell) < 1e15 else repr(float(cell))
    return f"{cell!r:.40}"


def _each(value_of: Callable[[str], float | None]) -> ValuesOf:
    return lambda texts: [value_of(text) for text in texts]


def _advice_for_numbers(odd: Counter[str], rows: int, decimal: str) -> str:
    """Return what to do about cells that are no numbers."""
    if all("%" in cell or cell[:1] in "$€£" or cell[-1:] in "$€£" for cell in odd):
        sign = next((sign for sign in "%$€£" if sign in next(iter(odd))), "%")
        return f'correct the cells, or set strip = "{sign}" for the column at all sites'
    comma = "," if decimal == "." else "."
    if all(cell.count(comma) == 1 and cell.replace(comma, "").isdecimal() for cell in odd):
        return "write all numbers with one decimal sign"
    if 2 * sum(odd.values()) > rows:
        return "make the column a category, or ignore it"
    if len(odd) == 1 and not any(map(str.isdecimal, next(iter(odd)))):
        return "correct the cells, or add the text to missing_cells of the column"
    return "correct or empty the cells"


def nearest_name(name: str, others: Collection[str]) -> str | None:
    """Return the one of `others` that is most like `name`; case and white space are the least difference."""
    plain = _plain(name)
    by_plain = {_plain(other): other for other in list(others)[:NAMES_COMPARED_MAX]}
    if plain in by_plain:
        return by_plain[plain]
    by_start = {other[:CHARACTERS_COMPARED_MAX]: real for other, real in by_plain.items()}
    near = get_close_matches(plain[:CHARACTERS_COMPARED_MAX], by_start, n=1)
    return by_start[near[0]] if near else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_.-]+", " ", name).strip().casefold()
