"""The proposal of a task file for tables: which kind each column seems to have, and why. A person reads and edits it.

Kinds are proposed once, here, and never at a site: all sites read the same file, so they agree.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, get_args

import numpy as np

from fedmq.errors import BadData
from fedmq.exact.integers import Floats
from fedmq.tables.encoding import days, nearest_name, pattern_of
from fedmq.tables.labels import FALSE, TRUE, label_key
from fedmq.tables.schema import CATEGORIES_MAX, MISSING_CELLS, DateForm
from fedmq.tables.table import EXACT_INTEGER_MAX, Decimal, Table, numbers
from fedmq.tasks.table_task import FileColumn, FileTarget

FEW_LEVELS, SOME_LEVELS, SHARE_OF_LEVELS = 20, 100, 0.05  # of a category: 20, or 5 % of the rows up to 100
CLASSES_OF_NUMBERS_MAX = 10  # more different whole numbers are values
ROWS_OF_A_CLASS = 10  # on average; fewer whole numbers are values
CONSTANT_ROWS = 20  # from so many rows on, a column with one value is left out
MARKERS_MAX = 3  # different words among numbers that mean missing
ROWS_TO_TELL = 50  # from so many rows on, a tenth of the cells may be something else
COUNTS_THE_ROWS = "counts the rows"
SCALE_FROM = 30.0  # a standard deviation that needs a unit of its own

_TARGET_NAME = re.compile(r"y|target|label|class|outcome|species|diagnosis", re.IGNORECASE)
_IDENTIFIER = re.compile(
    r"|id|index|no|unnamed.*|.*[ _]id|[a-z]+Id|(?:sample|patient|customer|row)[ _]?(?:id|no|nr|number|code|name)?",
    re.IGNORECASE,
)
_NEARLY_NUMBER = re.compile(
    r"[-+\u2212($€£]*\s*\d[\d_.,\s\0]*\s*[%€$£)]*|0x[0-9a-f]+|[-+]?inf(?:inity)?", re.IGNORECASE
)
_SIGNS = "%$€£"
_NUMBERS_BEGIN = frozenset("0123456789+-.,")


class ProposedColumn(NamedTuple):
    """A column of the file, and what is said about it there."""

    name: str
    column: FileColumn
    why: str


@dataclass(frozen=True)
class Proposal:
    """What a task file says, in the order of the columns; `notes` are for the person who asked for it."""

    target: FileTarget
    target_why: str
    columns: Sequence[ProposedColumn]
    notes: Sequence[str]


def propose(tables: Sequence[Table], target: str | None = None) -> Proposal:
    """Return a proposal for all of these tables: with all their categories and classes, and their common columns.

    Without a `target` it is a column with a usual name, such as y or class, else the last one that can be a target.

    Raises:
        BadData: no rows, no such target, or one that is no class, number or count.
    """
    names = list(dict.fromkeys(name for table in tables for name in table.names))
    if not names or not any(table.num_rows for table in tables):
        raise BadData(f"{tables[0].source}: expected a table with columns and rows, got none: check the file")
    chosen = target if target is not None else _usual_target(tables, names)
    if chosen not in names:
        near = nearest_name(chosen, names)
        hint = f"did you mean {near!r:.80}?" if near else f"the columns are {', '.join(names[:8])}"
        raise BadData(f"--target {chosen}: expected a column of {tables[0].source}; {hint}")
    notes = [] if target is not None else [f"the target is {chosen}; --target names another"]
    if alone := [table.source for table in tables if chosen not in table.names]:
        raise BadData(f"--target {chosen}: expected the column in each table, {alone[0]} has none: rename it there")
    proposed, why = _target(_Cells.of(tables, chosen))
    others = [name for name in names if name != chosen]
    columns = [_input(_Cells.of(tables, name), tables, place) for place, name in enumerate(others)]
    columns = _with_an_input(columns)
    if all(one.column.kind == "ignored" for one in columns):
        raise BadData(f"{tables[0].source}: expected a column to learn from beside {chosen}, got none: add one")
    return Proposal(proposed, why, columns, notes)


def _usual_target(tables: Sequence[Table], names: Sequence[str]) -> str:
    if (usual := next(filter(_TARGET_NAME.fullmatch, names), None)) is not None:
        return usual
    for name in reversed(names):
        with suppress(BadData):
            _target(_Cells.of(tables, name))
            return name
    return names[-1]


@dataclass
class _Cells:
    """The cells of one column in all tables."""

    name: str
    rows: int = 0  # of the tables that have it
    values: list[Floats] = field(default_factory=list)  # of the cells that are numbers
    texts: Counter[str] = field(default_factory=Counter)  # cells that are no numbers, and not missing
    written: Counter[str] = field(default_factory=Counter)  # numbers in columns with text among them
    decimal: Decimal = "."

    @classmethod
    def of(cls, tables: Iterable[Table], name: str) -> _Cells:
        found = cls(name)
        for table in tables:
            if name in table.columns:
                found._add(table, table.columns[name].tolist(), is_number=table.columns[name].dtype.kind == "f")
        return found

    def _add(self, table: Table, cells: list[str] | list[float], *, is_number: bool) -> None:
        self.rows += table.num_rows
        if is_number:
            array = np.array(cells, dtype=np.float64)
            self.values.append(array[~np.isnan(array)])
            return
        self.decimal = table.decimal
        levels = Counter(str(cell).strip() for cell in cells)
        found = []
        for level, count in levels.items():
            if level in MISSING_CELLS:
                continue
            if level[0] not in _NUMBERS_BEGIN or (value := numbers([level], table.decimal)) is None:
                self.texts[level] += count
            else:
                self.written[level] += count
                found += [float(value[0])] * count
        self.values.append(np.array(found))

    @property
    def numbers(self) -> Floats:
        return np.concatenate(self.values) if self.values else np.empty(0)

    @property
    def present(self) -> int:
        return sum(map(len, self.values)) + self.texts.total()

    @property
    def missing(self) -> int:
        return self.rows - self.present

    @property
    def levels(self) -> int:
        """The number of different cells."""
        return len(np.unique(self.numbers)) + len(self.texts)

    def labels(self) -> list[str]:
        """Return all different labels, numbers first, as they are written."""
        seen: dict[object, str] = {}
        for value in np.unique(self.numbers).tolist():
            seen.setdefault(value, _plain(value))
        for text in sorted(self.texts):
            seen.setdefault(label_key(text), text)
        return list(seen.values())

    @property
    def gaps(self) -> str:
        return f"{self.missing} of {self.rows} cells are missing" if self.missing else ""


def _target(cells: _Cells) -> tuple[FileTarget, str]:
    """Return the target that the cells seem to be, and why."""
    values = np.unique(cells.numbers)
    if not cells.present:
        raise BadData(f"--target {cells.name}: expected classes or numbers, got empty cells only: choose another")
    number = _number_column(cells)
    if number is None or (_whole(values) and not cells.texts and _few_classes(cells, len(values))):
        if number is None and (cells.levels > max(FEW_LEVELS, cells.present // 2) or cells.levels > CATEGORIES_MAX):
            raise BadData(
                f"--target {cells.name}: expected classes or numbers, got text with {cells.levels} different values in "
                f"{cells.present} rows: choose another column"
            )
        labels = cells.labels()
        if len(labels) < 2 and labels[0] in ("0", "1"):
            return FileTarget(cells.name, "class", ("0", "1")), f"only {labels[0]} is in the table: complete the list"
        if len(labels) < 2:
            raise BadData(
                f"--target {cells.name}: expected two or more classes, got one, {labels[0]!r:.80}: "
                "give the tables of more sites with --from"
            )
        why = "the labels of all sites, as they are in their tables"
        if number is not None and len(labels) > 2:
            why = f"{len(labels)} whole numbers: for amounts write number or count, and remove classes"
        return FileTarget(cells.name, "class", tuple(labels)), why
    if number.strip or number.missing_cells:
        odd = next(iter(cells.texts))
        raise BadData(f"--target {cells.name}: expected numbers or classes, got {odd!r:.80}, too: correct the cells")
    counts = _whole(values) and values.min() >= 0
    why = 'kind = "count" predicts a mean above 0, kind = "class" needs classes = [...]' if counts else ""
    return FileTarget(cells.name, "number", scale=_scale(cells.numbers)), why


def _few_classes(cells: _Cells, levels: int) -> bool:
    many_rows = cells.present >= ROWS_OF_A_CLASS * levels or levels <= 2
    return levels <= CLASSES_OF_NUMBERS_MAX and (many_rows or bool(_TARGET_NAME.fullmatch(cells.name)))


def _scale(values: Floats) -> float:
    """Return the power of ten next to the standard deviation of values, if that is far from 1."""
    with np.errstate(over="ignore"):  # of numbers that no scale helps
        deviation = float(values.std()) if values.size else 0.0
    if not math.isfinite(deviation) or 1 / SCALE_FROM <= deviation <= SCALE_FROM or deviation == 0:
        return 1.0
    return float(f"1e{round(math.log10(deviation))}")


def _input(cells: _Cells, tables: Sequence[Table], place: int) -> ProposedColumn:
    """Return the input column that the cells seem to be."""
    if lacking := [table for table in tables if cells.name not in table.names]:
        near = nearest_name(cells.name, lacking[0].names)
        like = f", which has {near!r:.80}" if near else ""
        return _ignored(cells, f"not in {lacking[0].source}{like}")
    if not cells.present:
        return _ignored(cells, "no values")
    if cells.rows >= CONSTANT_ROWS and not cells.missing and cells.levels == 1:
        return _ignored(cells, "one value only")
    column, why = _of_numbers(cells, place) or _of_text(cells)
    return ProposedColumn(cells.name, column, "; ".join(filter(None, [why, cells.gaps])))


def _of_numbers(cells: _Cells, place: int) -> tuple[FileColumn, str] | None:
    """Return a number, or None if the cells are text."""
    if (column := _number_column(cells)) is None:
        return None
    values = cells.numbers
    levels = np.unique(values)
    unique = len(levels) == len(values) == cells.rows > 2 and _whole(levels) and not cells.texts
    unnamed = bool(re.fullmatch(r"|index|unnamed.*", cells.name, re.IGNORECASE))
    if (unnamed or (unique and place == 0)) and len(values) == cells.rows and _counts_the_rows(values):
        return FileColumn("ignored"), COUNTS_THE_ROWS
    if _whole(levels) and len(levels) > 0.9 * cells.rows and _IDENTIFIER.fullmatch(cells.name):
        return FileColumn("ignored"), "whole numbers that are nearly all different: an identifier"
    why = ""
    if column.missing_cells:
        words = ", ".join(column.missing_cells)
        why = f"{words} taken as missing ({cells.texts.total()} cells)"
    elif cells.texts and not column.strip:
        why = f"{cells.texts.total()} cells are no numbers, such as {next(iter(cells.texts))!r:.40}"
    if levels.size and _whole(levels) and np.abs(levels).max() > EXACT_INTEGER_MAX:
        why = f"{why}; " * bool(why) + "above 2^53 the last digits are lost"
    return column, why


def _number_column(cells: _Cells) -> FileColumn | None:
    """Return the fields of a column of numbers, or None if the cells are text."""
    numbers_there, odd = len(cells.numbers), cells.texts
    if not odd:
        return FileColumn("number")
    if (sign := _common_sign(cells)) is not None:
        return FileColumn("number", strip=sign)
    share = numbers_there / cells.present
    if all(map(_NEARLY_NUMBER.fullmatch, odd)) and not all(any(form(one) for form in _DATES) for one in odd):
        return FileColumn("number")
    words = len(odd) <= MARKERS_MAX and not any(re.search(r"\d", one) for one in odd)
    if words and share > 0.5 and len(np.unique(cells.numbers)) > ROWS_OF_A_CLASS:
        return FileColumn("number", missing_cells=tuple(sorted(odd)))
    if share > 0.9 and cells.present > ROWS_TO_TELL:
        return FileColumn("number")
    return None


def _common_sign(cells: _Cells) -> str | None:
    """Return the sign that each cell has beside a number, such as %; None if there is none."""
    for sign in _SIGNS:
        if not cells.written and all(sign in one for one in cells.texts) and not sum(map(len, cells.values)):
            stripped = [one.replace(sign, "").strip() for one in cells.texts]
            if all(stripped) and numbers(stripped, cells.decimal) is not None:
                return sign
    return None


def _of_text(cells: _Cells) -> tuple[FileColumn, str]:
    """Return a boolean, a date, a category, or an ignored column."""
    levels, words = cells.levels, {one.lower() for one in (*cells.texts, *cells.written)}
    if words <= TRUE | FALSE and words & TRUE and words & FALSE:
        return FileColumn("boolean"), ""
    if not len(cells.numbers):
        for form, is_date in zip(get_args(DateForm), _DATES, strict=True):
            if all(map(is_date, cells.texts)):
                either = form == "DD/MM/YYYY" and all(map(_is_date("MM/DD/YYYY"), cells.texts))
                return FileColumn("date", form=form), "or MM/DD/YYYY: both fit" if either else ""
    all_different = levels == cells.present > ROWS_OF_A_CLASS
    if levels <= max(FEW_LEVELS, min(SOME_LEVELS, SHARE_OF_LEVELS * cells.rows)) and not all_different:
        return FileColumn("category", categories=tuple(cells.labels())), ""
    what = "text that is different in each row" if all_different else "text"
    return FileColumn("ignored"), f"{what}: {levels} different values in {cells.rows} rows"


def _with_an_input(columns: list[ProposedColumn]) -> list[ProposedColumn]:
    """Return the columns with dates ignored if there is another input; without any, the count of the rows is one."""
    if all(one.column.kind == "ignored" for one in columns):
        return [
            one._replace(column=FileColumn("number")) if one.why.startswith(COUNTS_THE_ROWS) else one for one in columns
        ]
    if all(one.column.kind in ("ignored", "date") for one in columns):
        return columns
    return [
        one._replace(
            column=FileColumn("ignored"), why=f'dates; {{ kind = "date", form = "{one.column.form}" }} makes them days'
        )
        if one.column.kind == "date"
        else one
        for one in columns
    ]


def _ignored(cells: _Cells, why: str) -> ProposedColumn:
    return ProposedColumn(cells.name, FileColumn("ignored"), why)


def _counts_the_rows(values: Floats) -> bool:
    return bool(values.size) and values[0] in (0.0, 1.0) and bool((np.diff(values) == 1).all())


def _whole(values: Floats) -> bool:
    return bool(values.size) and bool((values == np.floor(values)).all())


def _plain(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)


def _is_date(form: DateForm) -> Callable[[str], bool]:
    pattern = pattern_of(form)
    return lambda cell: days(cell, pattern) is not None


_DATES: Sequence[Callable[[str], bool]] = [_is_date(form) for form in get_args(DateForm)]
