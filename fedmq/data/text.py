"""Tables of text: CSV of every dialect, TSV, and columns separated by spaces; plain or compressed with gzip.

The csv module splits the lines, because its errors can be given a line. Columns are converted in blocks of rows, which
bounds the memory.
"""

import codecs
import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from fedmq.data.faults import TableFaults
from fedmq.data.limits import LINE_CHARACTERS_MAX, check_columns, check_values, decompressed, open_file
from fedmq.data.structure import (
    SAMPLE_LINES,
    Layout,
    Record,
    Sign,
    decimal_of,
    detect_lines,
    layout,
    records,
    sign_of,
)
from fedmq.errors import BadData
from fedmq.exact.integers import Floats
from fedmq.tables.schema import MISSING_CELLS
from fedmq.tables.table import (
    Column,
    Decimal,
    Table,
    has_large_integers,
    is_number,
    large_integers_note,
    numbers,
    text,
)

BLOCK_VALUES = 500_000  # cells that are converted at once
_HEAD_BYTES = 4096
_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SEPARATORS = {"tab": "\t", "space": " ", "comma": ",", "semicolon": ";"}
YES_OR_NO = {"yes": True, "no": False}


class TextOptions(NamedTuple):
    """What is given for a file and not detected."""

    separator: str | None = None
    decimal: Decimal | None = None
    header: bool | None = None
    encoding: str | None = None


def text_options(given: Mapping[str, str], source: str) -> TextOptions:
    """Return the options of a file of text.

    Raises:
        BadData: an option has a value that it cannot have.
    """
    separator = given.get("separator")
    separator = _SEPARATORS.get(separator, separator) if separator is not None else None
    if separator is not None and len(separator) != 1:
        raise BadData(f"{source}: expected one character or tab, space as separator, got {separator!r:.40}")
    decimal = given.get("decimal")
    if decimal not in (None, ".", ","):
        raise BadData(f"{source}: expected . or , as decimal, got {decimal!r:.40}")
    header = given.get("header")
    if header is not None and header not in YES_OR_NO:
        raise BadData(f"{source}: expected header=yes or header=no, got {header!r:.40}")
    encoding = given.get("encoding")
    try:
        encoding = encoding and codecs.lookup(encoding).name
    except LookupError as error:
        raise BadData(f"{source}: expected an encoding such as utf-8 or cp1252, got {encoding!r:.40}") from error
    return TextOptions(
        separator, cast(Decimal | None, decimal), None if header is None else YES_OR_NO[header], encoding
    )


def read_text_table(path: Path, names: Sequence[str] = (), options: TextOptions = TextOptions()) -> Table:  # noqa: B008
    """Read a table of text; with the `names` of a task its header is not guessed. Broken lines are its `faults`.

    Raises:
        BadData: the file cannot be read, or has no rows.
    """
    with open_file(path) as file:
        encodings = (options.encoding,) if options.encoding else _encodings(decompressed(file, path).read(_HEAD_BYTES))
        for encoding in encodings[:-1]:
            try:
                return _Reader(file, path, names, options, encoding).read()
            except UnicodeDecodeError:
                continue
        try:
            return _Reader(file, path, names, options, encodings[-1]).read()
        except UnicodeDecodeError as error:
            raise BadData(
                f"{path}: expected text in {encodings[-1]}, got {error}: export it again, as UTF-8"
            ) from error


def _encodings(head: bytes) -> tuple[str, ...]:
    """Return the encodings that a file may have, to be tried in this order. The last one decodes all bytes."""
    for mark, encoding in _BYTE_ORDER_MARKS:
        if head.startswith(mark):
            return (encoding,)
    if 4 * head.count(0) > len(head) > 3:
        return ("utf-16-le" if head[1::2].count(0) > head[::2].count(0) else "utf-16-be",)
    return "utf-8", "cp1252", "latin-1"


class _Reader:
    """Reads an open file in one encoding; again from its start where later rows change how earlier ones are read."""

    def __init__(self, file: BinaryIO, path: Path, names: Sequence[str], options: TextOptions, encoding: str) -> None:
        self._file, self._path, self._options, self._encoding = file, path, options, encoding
        sample = _sample(self._open())
        self._lines = detect_lines(sample, names, options.separator)
        body = records(sample[self._lines.skipped :], self._lines.separator, self._lines.quote)
        rows = [cells for _, cells in body if not isinstance(cells, csv.Error) and any(map(str.strip, cells))]
        check_columns(max(map(len, rows), default=0), path)  # before each cell of the sample is looked at
        self._layout = layout(rows, self._lines, names, options.header) if rows else Layout((), 0, 0, None)
        check_columns(len(self._layout.names), path)

    def read(self) -> Table:
        """Return the table.

        Raises:
            BadData: it has no rows.
        """
        decimal = self._options.decimal or self._layout.decimal
        found = self._scan(decimal)
        if decimal is None and (signs := found.signs()):
            decimal = decimal_of(signs.keys(), self._lines.separator)
            if decimal is None:
                _add_ambiguous(signs["either"], found)
            else:
                found = self._scan(decimal)
        if found.late and not found.faults:
            found = self._scan(decimal, frozenset(found.texts))
        if not found.lines and not found.faults:
            raise BadData(f"{self._path}: expected at least one row, got zero rows: add rows")
        return self._table(found, decimal or ".")

    def _table(self, found: "_Scan", decimal: Decimal) -> Table:
        columns: dict[str, Column] = {}
        notes = [*self._layout.notes, *found.notes()]
        if self._encoding in ("cp1252", "latin-1") and not self._options.encoding:
            notes.insert(0, f"not UTF-8, read as {self._encoding}: if letters are wrong, add ?encoding=NAME")
        for place, name in enumerate(self._layout.names):
            column = np.concatenate(found.columns.pop(0) or [np.empty(0)])
            if place in self._layout.unnamed and column.dtype.kind == "f" and np.isnan(column).all():
                continue
            columns[name] = column
            if has_large_integers(column):
                notes.append(large_integers_note(name))
        lines, faults = np.array(found.lines, np.int64), found.faults.listed()
        return Table(str(self._path), tuple(columns), columns, len(lines), lines, tuple(notes), decimal, faults)

    def _open(self) -> Iterator[str]:
        """Yield the lines of the file, each with a line feed at its end."""
        opened = io.TextIOWrapper(decompressed(self._file, self._path), self._encoding, newline=None)
        for line in iter(partial(opened.readline, LINE_CHARACTERS_MAX), ""):
            if len(line) == LINE_CHARACTERS_MAX:
                raise BadData(
                    f"{self._path}: expected lines of at most {LINE_CHARACTERS_MAX} characters, got a longer one: "
                    "check that it is a table"
                )
            yield line

    def _scan(self, decimal: Decimal | None, as_text: frozenset[int] = frozenset()) -> "_Scan":
        """Read all rows; the columns `as_text` are text, whatever their cells.

        Without a decimal sign, columns that have commas are text, and show which it is.
        """
        scan = _Scan(self._layout, decimal, as_text)
        lines, at = islice(self._open(), self._lines.skipped, None), 1 + self._lines.skipped
        size = max(1, BLOCK_VALUES // max(1, len(self._layout.names)))
        while block := list(islice(lines, size)):
            if any(self._lines.quote in line for line in block):  # a cell may go on in the next line
                self._parse(chain(block, lines), at, scan)
                break
            if not scan.add_clean(block, at, self._lines.separator):
                self._parse(block, at, scan)
            at += len(block)
            check_values(len(scan.lines) * len(self._layout.names), self._path)
        if scan.broken:
            self._add_broken(scan)
        return scan

    def _parse(self, lines: Iterable[str], at: int, scan: "_Scan") -> None:
        """Add the rows of lines, the first of which is line `at`, by the csv module."""
        rows = self._rows(records(lines, self._lines.separator, self._lines.quote, at), scan)
        size = max(1, BLOCK_VALUES // max(1, len(self._layout.names)))
        while block := list(islice(rows, size)):
            scan.add(block)
            check_values(len(scan.lines) * len(self._layout.names), self._path)

    def _rows(self, body: Iterator[Record | tuple[int, csv.Error]], scan: "_Scan") -> Iterator[Record]:
        """Yield the rows, each as long as there are columns; count what is left out, and collect faults."""
        width = len(self._layout.names)
        for line, cells in body:
            scan.faults.total += 1
            if isinstance(cells, csv.Error):
                scan.broken.append((line, cells))
            elif not any(map(str.strip, cells)):
                scan.left_out["empty lines"] += 1
            elif scan.above:
                scan.pass_above(cells)
            elif cells == scan.head:
                scan.left_out["repeated lines of names"] += 1
            elif len(cells) == width:
                yield line, cells
            elif len(cells) > width and not any(map(str.strip, cells[width:])):
                yield line, cells[:width]
            elif cells[0].startswith("#"):
                scan.left_out["comments"] += 1
            else:
                self._add_ragged(line, cells, scan.faults)

    def _add_ragged(self, line: int, cells: list[str], faults: TableFaults) -> None:
        joined, width = self._lines.separator.join(cells), len(self._layout.names)
        faults.add(
            "ragged",
            (line, 0),
            f"line {line}: expected {width} cells",
            f"{len(cells)} in {joined!r:.40}",
            "correct the line",
            common="correct the first line, or add ?separator=",
        )

    def _add_broken(self, scan: "_Scan") -> None:
        """Add the fault of quotes, with the cell of the first."""
        line, error = scan.broken[0]
        text = next(islice(self._open(), line - 1, line), "").rstrip("\n")
        quote = self._lines.quote
        cells = [cell.strip() for cell in text.split(self._lines.separator)]
        opened = (place for place, cell in enumerate(cells) if cell[:1] == quote != cell[1:][-1:])
        column = next(opened, 0)
        scan.faults.add(
            "quote",
            (line, column),
            f"line {line}, column {column + 1}: expected a quote that is closed",
            f"{cells[column]!r:.40}, {error}",
            "close it, or write a quote inside a cell twice",
            count=len(scan.broken),
        )


class _Scan:
    """The columns of a file as they are read, block by block."""

    def __init__(self, layout: Layout, decimal: Decimal | None, as_text: frozenset[int]) -> None:
        self.columns: list[list[Column]] = [[] for _ in layout.names]
        self.above = layout.titles + layout.header  # rows that are no rows of the table, and are still to come
        self.head: list[str] | None = None  # the line of names, if it cannot be a row
        self.broken: list[tuple[int, csv.Error]] = []  # lines
        self.lines: list[int] = []
        self.faults = TableFaults()
        self.left_out = Counter[str]()
        self.texts = set(as_text)  # places of columns of text
        self.late = False  # a column of text begins with numbers, whose cells are not kept
        self._gaps = set[int]()  # places of columns of numbers with empty cells
        self._header, self._decimal = layout.header, decimal

    def pass_above(self, cells: list[str]) -> None:
        """Leave out a row above those of the table."""
        if self.above == self._header and not all(map(is_number, cells)):
            self.head = cells
        self.above -= 1
        self.faults.total -= 1

    def add(self, block: Sequence[Record]) -> None:
        """Add rows, all of one length."""
        self.lines.extend(line for line, _ in block)
        for place, cells in enumerate(zip(*(cells for _, cells in block), strict=True)):
            self._append(place, self._column(place, cells))

    def add_clean(self, block: Sequence[str], at: int, separator: str) -> bool:
        """Add the rows of lines without quotes, if they are as clean as those before; `at` is the number of the first.

        numpy.loadtxt reads numbers four times as fast as the csv module and `float`. It reads infinity and NaN, which
        are no numbers here, and finds no repeated names in text: then, and if it fails, nothing is added.
        """
        places = range(len(self.columns))
        plain = [place for place in places if place not in self.texts and place not in self._gaps]
        if self.head is not None and all(is_number(self.head[place]) for place in plain if place < len(self.head)):
            return False  # where names are repeated, these columns have numbers
        if not plain or self._decimal == "," or not self.lines:
            return False
        clean = [line for line in block if not line.isspace()]
        if len(clean) + block.count("\n") != len(block) or not clean:
            return False
        kinds = [(f"{place}", "f8" if place in set(plain) else "O") for place in places]
        try:
            found = np.loadtxt(
                clean,
                dtype=kinds,
                delimiter=None if separator == " " else separator,
                comments=None,
                ndmin=1,
                encoding=None,
            )
        except ValueError:
            return False
        if len(found) != len(clean) or not all(np.isfinite(found[f"{place}"]).all() for place in plain):
            return False
        self.faults.total += len(clean)
        self.lines.extend(line for line, content in enumerate(block, at) if content != "\n")
        for place in places:
            column = found[f"{place}"]
            self._append(place, self._column(place, column.tolist()) if column.dtype.kind == "O" else column.copy())
        return True

    def _append(self, place: int, column: Column) -> None:
        if column.dtype.kind == "f" and np.isnan(column).any():
            self._gaps.add(place)
        self.columns[place].append(column)

    def _column(self, place: int, cells: Sequence[str]) -> Column:
        """Return cells as numbers if the column has only these so far; else as text."""
        found = None if place in self.texts else self._numbers(cells)
        if found is None:
            self.late = self.late or (place not in self.texts and bool(self.columns[place]))
            self.texts.add(place)
            return text(cells)
        return found

    def _numbers(self, cells: Sequence[str]) -> Floats | None:
        if self._decimal is not None:
            return numbers(cells, self._decimal)
        return None if "," in "".join(cells) else numbers(cells)

    def signs(self) -> dict[Sign, tuple[int, int, str]]:
        """Return which decimal signs the numbers with commas have: line, column from 0, and cell of the first."""
        found: dict[Sign, tuple[int, int, str]] = {}
        for place in sorted(self.texts):
            start, blocks = 0, self.columns[place]
            levels = dict.fromkeys(cell for block in blocks if block.dtype.kind == "O" for cell in set(block.tolist()))
            if not all(sign_of(cell) or is_number(cell) or cell in MISSING_CELLS for cell in levels):
                continue
            for block in blocks:
                for row, cell in enumerate(block.tolist() if block.dtype.kind == "O" else ()):
                    if (sign := sign_of(cell)) is not None:
                        found.setdefault(sign, (self.lines[start + row], place, cell))
                start += len(block)
        return found

    def notes(self) -> list[str]:
        """Return what was left out."""
        return [f"{count} {what} left out" for what, count in self.left_out.items()]


def _add_ambiguous(first: tuple[int, int, str], scan: _Scan) -> None:
    line, place, cell = first
    scan.faults.add(
        "decimal",
        (line, place),
        f"line {line}, column {place + 1}: expected a number that can be read in one way",
        f"{cell!r:.40}",
        "add ?decimal=, or ?decimal=. to the name of the file",
    )


def _sample(lines: Iterable[str]) -> list[str]:
    """Return the first lines of a file: at most SAMPLE_LINES, and not many long ones."""
    sample, characters = list[str](), 0
    for line in islice(lines, SAMPLE_LINES):
        sample.append(line)
        characters += len(line)
        if characters > LINE_CHARACTERS_MAX:
            break
    return sample
