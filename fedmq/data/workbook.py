"""Tables in workbooks of Excel and LibreOffice, by calamine."""

import re
import zipfile
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np

from fedmq.data.limits import VALUES_MAX, check_bytes, check_columns, check_values, open_file
from fedmq.data.structure import SAMPLE_LINES, Lines, layout
from fedmq.errors import BadData
from fedmq.tables.table import Column, Table, cell_text, has_large_integers, large_integers_note, numbers, text

_ROWS_OF_EXCEL = 1 << 20
_REFERENCE = re.compile(rb"""\br\s*=\s*["']([A-Z]{0,3})([0-9]{1,7})["']""")  # of a cell, or of a row
_REFERENCE_BYTES = 32  # of the longest reference, which two blocks may share
_BLOCK_BYTES = 1 << 20
_AS_TEXT = Lines(0, ",", '"', ())


def read_workbook(path: Path, names: Sequence[str] = (), sheet: str | None = None, header: bool | None = None) -> Table:
    """Read the sheet of this name, or the first one; rows above the table with one cell, such as a title, are left out.

    Raises:
        BadData: calamine is not installed; the file cannot be read, or has no such sheet or no rows.
    """
    try:
        import python_calamine
    except ImportError as error:
        raise BadData(f'{path}: expected calamine for workbooks, got {error}: pip install "fedmq[tables]"') from error
    with open_file(path) as file:
        _check_unpacked(file, path)
        try:
            book = python_calamine.CalamineWorkbook.from_filelike(file)
            if sheet is not None and sheet not in book.sheet_names:
                some = ", ".join(map(repr, book.sheet_names[:10]))
                raise BadData(f"{path}: expected a sheet {sheet!r:.40}, got {some}: name one of them")
            chosen = book.get_sheet_by_name(sheet or book.sheet_names[0])
            check_values(chosen.total_height * chosen.total_width, path)
            listed = chosen.to_python(skip_empty_area=False)
        except python_calamine.CalamineError as error:
            raise ValueError(str(error)) from error
    notes = []
    if sheet is None and len(book.sheet_names) > 1:
        notes.append(f"the first sheet of {len(book.sheet_names)}, {chosen.name!r:.40}; another one: add ?sheet=NAME")
    cells = [(line, [cell_text(cell, str(path)) for cell in row]) for line, row in enumerate(listed, 1)]
    rows = [(line, row) for line, row in cells if any(row)]
    used = [place for place in range(len(rows[0][1]) if rows else 0) if any(row[place] for _, row in rows)]
    rows = [(line, [row[place] for place in used]) for line, row in rows]
    check_columns(len(used), path)
    if not rows:
        raise BadData(f"{path}: expected at least one row, got an empty sheet: add rows, or ?sheet=NAME")
    found = layout([row for _, row in rows[:SAMPLE_LINES]], _AS_TEXT, names, header)
    above = found.titles + found.header
    heads = [row for _, row in rows[:above]]
    body = [(line, row) for line, row in rows[above:] if row not in heads]
    if not body:
        raise BadData(f"{path}: expected at least one row, got zero rows: add rows")
    columns: dict[str, Column] = {}
    for place, name in enumerate(found.names):
        column = [row[place] for _, row in body]
        values = numbers(column)
        columns[name] = text(column) if values is None else values
        if has_large_integers(columns[name]):
            notes.append(large_integers_note(name))
    lines = np.array([line for line, _ in body], np.int64)
    return Table(str(path), tuple(columns), columns, len(lines), lines, (*found.notes, *notes))


def _check_unpacked(file: BinaryIO, path: Path) -> None:
    """Check the size of the unpacked content, and of the area of each sheet: all formats but .xls are zip archives.

    calamine allocates the whole area, and a failed allocation ends the process. It limits other formats itself.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            check_bytes(sum(member.file_size for member in archive.infolist()), path)
            for name in archive.namelist():
                if name.endswith(".xml"):
                    with archive.open(name) as sheet:
                        _check_area(sheet, path)
    file.seek(0)


def _check_area(sheet: IO[bytes], path: Path) -> None:
    """Check the area from the first to the last cell of a sheet by the references of its cells."""
    columns, first, last, rest = set[bytes](), _ROWS_OF_EXCEL, 0, b""
    while block := sheet.read(_BLOCK_BYTES):
        text = rest + block
        found = _REFERENCE.findall(text)
        columns.update(column for column, _ in found if column)
        rows = [int(row) for _, row in found]
        first, last, rest = min([first, *rows]), max([last, *rows]), text[-_REFERENCE_BYTES:]
    places = [reduce(lambda place, letter: 26 * place + letter - 64, column, 0) for column in columns]
    if places:
        rows_used, columns_used = last - first + 1, max(places) - min(places) + 1
        if rows_used * columns_used > VALUES_MAX:
            raise BadData(
                f"{path}: expected at most {VALUES_MAX} cells from the first to the last one of a sheet, got "
                f"{rows_used} rows of {columns_used} columns: delete the rows and columns behind the table"
            )
