"""Tables in workbooks of Excel and LibreOffice, by calamine."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fedmq.data.limits import check_bytes, check_columns, check_values, open_file
from fedmq.data.structure import SAMPLE_LINES, Lines, layout
from fedmq.errors import BadData
from fedmq.tables.table import Column, Table, cell_text, has_large_integers, large_integers_note, numbers, text

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
    """Check the size of the unpacked content: all formats but .xls are zip archives."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            check_bytes(sum(member.file_size for member in archive.infolist()), path)
    file.seek(0)
