"""The structure of a table of text: separator, quote, decimal sign, and where its names are.

Each site detects the structure of its own file. What a column means, its kind, labels, categories and units, comes from
the task: a rule that decides it per file lets two sites of a federation disagree about one column.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from fedmq.tables.schema import MISSING_CELLS
from fedmq.tables.table import Decimal, is_number

SAMPLE_LINES = 1000  # that the structure is detected from
SEPARATORS = ",;\t| "
HEADER_LINES_MAX = 4  # the names, and units or second levels under them
Sign = Literal[".", ",", "either"]

_SEP_LINE = re.compile(r"\"?sep=(.?)\"?\s*", re.IGNORECASE)  # of Excel
_COMMA = r"[+-]?(?:[0-9]*,(?:[0-9]{1,2}|[0-9]{4,})|(?:0|[0-9]{4,})?,[0-9]+|[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]*)"
_DECIMAL_COMMA = re.compile(rf"{_COMMA}(?:[eE][+-]?[0-9]+)?")
_DECIMAL_POINT = re.compile(r"[+-]?(?:[0-9]*\.(?:[0-9]{1,2}|[0-9]{4,})|(?:0|[0-9]{4,})?\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:(?:,[0-9]{3}){2,}|(?:,[0-9]{3})+\.[0-9]*)")
_EITHER = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")  # 1,234: a thousand or a bit more than one
_DATE = re.compile(r"[0-9]{1,4}([-/.])[0-9]{1,2}(?:\1[0-9]{1,4})?(?:[T ][0-9:.]{4,}Z?)?")
_YEAR = re.compile(r"(?:19|20)[0-9]{2}")
_POSITIONAL = re.compile(r"x[0-9]+")  # the names of columns without names
_INFINITE = frozenset({"inf", "-inf", "+inf", "infinity", "-infinity"})

Record = tuple[int, list[str]]  # the number of its first line, and its cells


class Lines(NamedTuple):
    """The lines above a table, and how its lines are split."""

    skipped: int  # lines: `sep=`, comments, empty ones
    separator: str
    quote: str
    comment: tuple[str, ...]  # the cells of the last comment: the names of columns, in files of numpy.savetxt


@dataclass(frozen=True)
class Layout:
    """Where the names are, and which sign is the decimal one."""

    names: tuple[str, ...]
    titles: int  # rows above them
    header: int  # rows with names, units or second levels: 0 to HEADER_LINES_MAX
    decimal: Decimal | None  # None: the sample does not tell
    notes: tuple[str, ...] = ()
    unnamed: frozenset[int] = frozenset()  # the places of columns whose name is empty


def records(
    lines: Iterable[str], separator: str, quote: str, first: int = 1
) -> Iterator[Record | tuple[int, csv.Error]]:
    """Yield the records of lines with the number of their first line, counted from `first`; or an error there.

    Empty lines are left out. After an error the next line begins a record.
    """
    reader = csv.reader(lines, delimiter=separator, quotechar=quote, skipinitialspace=True, strict=True)
    line = 0
    while True:
        try:
            for cells in reader:
                if cells:
                    yield first + line, cells
                line = reader.line_num
            return
        except csv.Error as error:
            yield first + line, error
            line = reader.line_num


def detect_lines(sample: Sequence[str], names: Sequence[str] = (), separator: str | None = None) -> Lines:
    """Return how the lines of a file are split, from its first SAMPLE_LINES; a given separator is not detected.

    The separator wins that yields the `names`, else the one whose records are of one length and whose cells look like
    numbers, dates and words without other separators.
    """
    skipped, comment = 0, ""
    for line in sample:
        if found := _SEP_LINE.fullmatch(line):
            separator = separator or found[1] or "\t"
        elif line.startswith("#"):
            comment = line
        elif line.strip():
            break
        skipped += 1
    body = sample[skipped:]
    if not separator:
        best = max(SEPARATORS, key=lambda one: round(_fitness(_cells(body[:200], one), one, names), 9))
        separator = best
    rows = _cells(body, separator)
    columns = _columns([row for row in rows if len(row) == len(rows[0])]) if rows else []
    quote = "'" if any(map(_is_quoted, columns)) else '"'
    return Lines(skipped, separator, quote, tuple(next(iter(_cells([comment.lstrip("# ")], separator)), [])))


def layout(rows: Sequence[Sequence[str]], lines: Lines, names: Sequence[str], header: bool | None) -> Layout:
    """Return where the names of the first `rows` are; with the `names` of a task it is looked up and not guessed.

    `header` says whether the first row has names, None that it is not known.
    """
    stripped = [[cell.strip() for cell in row] for row in rows]
    decimal = decimal_of({sign for cell in chain.from_iterable(stripped) if (sign := sign_of(cell))}, lines.separator)
    titles = _titles(stripped)
    top, body, notes = _as_wide_as_the_body(stripped[titles], stripped[titles + 1 :])
    if titles:
        notes.append(f"{titles} lines above the table have one cell, such as a title, and are left out")
    guess = _Guess(top, [row for row in body if row != top], decimal or ".")
    if header is None:
        header = _has(names, top) or (not _has(names, lines.comment) and guess.is_header())
    if not header:
        return _without_header(titles, len(top), lines.comment, names, decimal)
    if any(is_number(cell, decimal or ".") for cell in top):
        notes.append("the first line is taken for names, although it has numbers; if it is a row, add ?header=no")
    under = guess.lines_under(body[: HEADER_LINES_MAX - 1]) if body else 0
    if under:
        notes.append(f"{under} lines under the names have no numbers, such as units, and are left out")
    unnamed = frozenset(place for place, cell in enumerate(top) if not cell)
    if under and len(set(top)) < len(top):  # two levels
        top = ["_".join(filter(None, cells)) for cells in zip(top, *body[:under], strict=True)]
    if len(set(top)) < len(top) - max(0, len(unnamed) - 1):
        notes.append("some names are there twice, and get a number")
    return Layout(unique_names(top), titles, 1 + under, decimal, tuple(notes), unnamed)


def _as_wide_as_the_body(top: list[str], rows: Sequence[list[str]]) -> tuple[list[str], Sequence[list[str]], list[str]]:
    """Return the first row and those of the others that fit it: without separators at the end, with R's index.

    What does not fit then is broken, or the first row is.
    """
    width = _width(rows, len(top))
    body, notes = [row for row in rows if len(row) == width], list[str]()
    if len(top) < width and not any(row[-1] for row in body):  # 1,2,0, under a,b,y
        width -= 1
        body = [row[:width] for row in body]
    while len(top) > width and not top[-1]:
        top = top[:-1]
    if len(top) == width - 1 and not any(map(is_number, top)) and len({row[0] for row in body}) == len(body):
        top = ["", *top]
        notes.append("the first line has a name less than the others have cells: the first column is `index`, as in R")
    if len(top) != width and any(map(is_number, top)) and 2 * len(body) > max(len(rows), 2):  # the first line is broken
        return body[0], body[1:], notes
    return top, [row for row in body if len(row) == len(top)], notes


def _titles(rows: Sequence[Sequence[str]]) -> int:
    """Return how many rows above a table have one cell while the others have more than two."""
    titles = next((place for place, row in enumerate(rows) if sum(map(bool, row)) > 1), 0)
    return titles if titles and _width(rows[titles:], 0) > 2 else 0


def _width(rows: Sequence[Sequence[str]], preferred: int) -> int:
    """Return how many cells most rows have: `preferred` if there is no row, or as many have another number."""
    counts = Counter(map(len, rows))
    most = max(counts.values(), default=0)
    return preferred if counts[preferred] == most else next(width for width in counts if counts[width] == most)


def _without_header(
    titles: int, width: int, comment: Sequence[str], names: Sequence[str], decimal: Decimal | None
) -> Layout:
    """Return the layout of a file whose first line is a row; a comment above it may name the columns."""
    if len(comment) == width and (_has(names, comment) or not any(map(is_number, comment))):
        return Layout(unique_names(comment), titles, 0, decimal, ("the names are those of the comment above the rows",))
    note = f"the first line has no names: the columns are x1 to x{width}; if it has names, add ?header=yes"
    return Layout(tuple(f"x{place}" for place in range(1, width + 1)), titles, 0, decimal, (note,))


def unique_names(cells: Sequence[str]) -> tuple[str, ...]:
    """Return names for columns: a number after a repeated one, `index` or `unnamed_2` for an empty one."""
    names: list[str] = []
    used = set(cells)
    for place, original in enumerate(cells, 1):
        cell = " ".join(original.split()) or ("index" if place == 1 else f"unnamed_{place}")
        name = cell
        number = 1
        while name in names or (number > 1 and name in used):
            number += 1
            name = f"{cell}_{number}"
        names.append(name)
    return tuple(names)


def decimal_of(signs: Set[Sign], separator: str) -> Decimal | None:
    """Return the decimal sign of a file, None if `signs` do not tell.

    Files with commas between the cells have decimal points, as Excel writes them: a quoted 1,234 is a thousand there.
    Elsewhere only other cells can tell.
    """
    if signs >= {".", ","}:
        return "." if separator == "," else ","
    if "," in signs:
        return ","
    return "." if "." in signs or ("either" in signs and separator == ",") else None


def sign_of(cell: str) -> Sign | None:
    """Return which decimal sign a number has, if one can tell from the cell alone."""
    if "," in cell:
        if _DECIMAL_COMMA.fullmatch(cell):
            return ","
        if _GROUPED.fullmatch(cell):
            return "."
        return "either" if _EITHER.fullmatch(cell) else None
    return "." if "." in cell and _DECIMAL_POINT.fullmatch(cell) else None


class _Guess:
    """What the first rows say about the first one. `body` has the others, all as long as `top`."""

    def __init__(self, top: Sequence[str], body: Sequence[Sequence[str]], decimal: Decimal) -> None:
        self._top, self._decimal = top, decimal
        self._columns = [[cell for cell in column if cell not in MISSING_CELLS] for column in _columns(body)]
        self._numeric = [
            2 * sum(is_number(cell, decimal) for cell in column) >= max(1, len(column)) for column in self._columns
        ]

    def is_header(self) -> bool:
        """Return whether the first row has names."""
        top = self._top
        if not self._columns:
            return all(map(self._is_word, top))
        pairs = list(zip(top, self._columns, self._numeric, strict=True))
        words = sum(map(self._is_word, top))
        if any(numeric and self._is_word(cell) and not _is_date(cell) for cell, _, numeric in pairs):
            return 2 * words >= len(top) or not all(self._is_word(cell) or cell in column for cell, column, _ in pairs)
        if top[0] == "" or list(top) == [str(place) for place in range(len(top))]:  # an index; of a frame of an array
            return True
        new = [not numeric and self._is_word(cell) and cell not in column for cell, column, numeric in pairs]
        if any(self._numeric):
            years = [_is_year(cell) and not any(map(_is_year, column)) for cell, column, numeric in pairs if numeric]
            return any(new) and any(years)  # state,2018,2019
        return all(new) and not any(map(_is_date, top)) and len(set(top)) == len(top)

    def lines_under(self, rows: Sequence[Sequence[str]]) -> int:
        """Return how many lines under the names have words in most columns of numbers: units, or a second level.

        Among several levels, one may have numbers.
        """
        found, levels = 0, len(set(self._top)) < len(self._top)
        for place, row in enumerate(rows, 1):
            words = [
                self._is_word(cell) and not any(map(str.isdigit, cell)) and cell[0] != "#"
                for cell, numeric in zip(row, self._numeric, strict=True)
                if numeric
            ]
            if 2 * sum(words) > len(words) and list(row) != list(self._top):
                found = place
            elif not levels:
                break
        return found

    def _is_word(self, cell: str) -> bool:
        return cell not in MISSING_CELLS and not is_number(cell, self._decimal) and cell.casefold() not in _INFINITE


def _has(names: Sequence[str], cells: Sequence[str]) -> bool:
    """Return whether cells have some of the names of a task."""
    return not set(names).isdisjoint(cells)


def _cells(lines: Sequence[str], separator: str, quote: str = '"') -> list[list[str]]:
    """Return the stripped cells of the records of lines, without broken and empty ones."""
    found = (record for _, record in records(lines, separator, quote) if not isinstance(record, csv.Error))
    return [cells for record in found if any(cells := [cell.strip() for cell in record])]


def _columns(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    return list(zip(*rows, strict=True))


def _fitness(rows: Sequence[Sequence[str]], separator: str, names: Sequence[str]) -> float:
    """Return how well a separator fits, above 0 for one that fits at all."""
    if not rows:
        return 0.0
    width, alike = Counter(map(len, rows)).most_common(1)[0]
    cells = list(chain.from_iterable(rows))
    plain = sum(_plainness(cell, separator) for cell in cells) / max(1, len(cells))
    named = bool(names) and set(names) <= set(rows[0])
    return alike / len(rows) * (0.3 + plain) * (1.0 if width > 1 else 0.3) + 10.0 * named


def _plainness(cell: str, separator: str) -> float:
    if cell in MISSING_CELLS or is_number(cell) or _is_date(cell):
        return 1.0
    if separator != "," and sign_of(cell):
        return 1.0
    return 0.2 if any(one in cell for one in ",;\t|") else 0.7


def _is_quoted(column: Sequence[str]) -> bool:
    """Return whether nearly all cells stand in apostrophes."""
    return sum(len(cell) > 1 and cell[0] == cell[-1] == "'" for cell in column) > 0.9 * len(column)


def _is_date(cell: str) -> bool:
    return bool(_DATE.fullmatch(cell)) and not is_number(cell)


def _is_year(cell: str) -> bool:
    return bool(_YEAR.fullmatch(cell))
