"""The faults of a CSV file: the first of each kind in each column, with counts and fitting advice."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

SHOWN_MAX = 8  # faults in one message
MISSING = frozenset({"", "na", "n/a", "nan", "none", "null", "?", "-"})  # cells of other programs without a value

_Kind = Literal["missing", "infinite", "text"]
_LineKind = Literal["empty", "repeated", "length"]


@dataclass
class _Fault:
    """A kind of fault in a column, or of whole lines; `line` and `got` are of the first."""

    line: int
    got: str
    count: int = 0


class CsvFaults:
    """Collects the faults of a file whose first line has these cells, which may be names."""

    def __init__(self, first: Sequence[str]) -> None:
        self._first = first
        self._cells: dict[tuple[int, _Kind], _Fault] = {}
        self._whole: dict[_LineKind, _Fault] = {}
        self.lines = 0  # with rows

    def __bool__(self) -> bool:
        return bool(self._cells or self._whole)

    def numbers(self, line: int, cells: Sequence[str]) -> Iterable[float]:
        """Return the numbers of a line, or nothing if it has a fault, which is added."""
        self.lines += 1
        try:
            numbers = [float(cell) for cell in cells]
            if all(map(math.isfinite, numbers)) and len(cells) == len(self._first):
                return numbers
        except ValueError:
            pass
        if (whole := self._kind_of_line(line, cells)) is not None:
            self._whole.setdefault(whole, _Fault(line, f"{len(cells)}")).count += 1
            return ()
        for column, cell in enumerate(cells):
            if (kind := _kind(cell)) is not None:
                self._cells.setdefault((column, kind), _Fault(line, f"{cell!r:.40}")).count += 1
        return ()

    def __str__(self) -> str:
        """Return all faults in one line, in the order of the file."""
        found = [
            (fault.line, column, self._of_column(column, kind, fault)) for (column, kind), fault in self._cells.items()
        ]
        found += [(fault.line, -1, self._of_lines(kind, fault)) for kind, fault in self._whole.items()]
        texts = [text for _, _, text in sorted(found)]
        more = len(texts) - SHOWN_MAX
        return "; ".join(texts[:SHOWN_MAX] + ([f"and {more} more faults"] if more > 0 else []))

    def _of_column(self, column: int, kind: _Kind, fault: _Fault) -> str:
        name = "" if is_number(self._first[column]) else f" ({self._first[column].strip()})"
        return (
            f"line {fault.line}, column {column + 1}{name}: expected a finite number, got {fault.got} "
            f"({self._share(fault)}): {self._advice(column, kind, fault)}"
        )

    def _advice(self, column: int, kind: _Kind, fault: _Fault) -> str:
        is_target = column == len(self._first) - 1
        if fault.count == 1 and fault.line == 1 and self.lines > 1:
            return "correct the line; if it has names, begin each with a letter"
        if kind == "text" and self._is_common(fault):
            return "number the classes from 0" if is_target else "drop the column, or write it as numbers"
        if kind == "missing" and (self._is_common(fault) or not is_target):
            return "drop the column" if self._is_common(fault) else "fill in or drop the line"
        return "correct or drop the line"

    def _kind_of_line(self, line: int, cells: Sequence[str]) -> _LineKind | None:
        """Return the kind of fault that a line has as a whole, or None."""
        if not any(cell.strip() for cell in cells):
            return "empty"
        if cells == self._first and line > 1:
            return "repeated"
        return None if len(cells) == len(self._first) else "length"

    def _of_lines(self, kind: _LineKind, fault: _Fault) -> str:
        where, share = f"line {fault.line}: expected", self._share(fault)
        match kind:
            case "empty":
                return f"{where} numbers, got only empty cells ({share}): delete the line"
            case "repeated":
                return f"{where} numbers, got the first line again ({share}): delete the line"
            case "length":
                first = "first " if self._is_common(fault) else ""
                columns = f"{len(self._first)} columns as in the first line"
                return f"{where} {columns}, got {fault.got} ({share}): correct the {first}line"
            case _:
                assert_never(kind)

    def _is_common(self, fault: _Fault) -> bool:
        return 2 * fault.count > self.lines

    def _share(self, fault: _Fault) -> str:
        return f"in {fault.count} of {self.lines} lines"


def is_number(cell: str) -> bool:
    """Return whether a cell is a number, infinite or not."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _kind(cell: str) -> _Kind | None:
    """Return the kind of fault of a cell, or None for a finite number."""
    if cell.strip().lower() in MISSING:
        return "missing"
    if not is_number(cell):
        return "text"
    return None if math.isfinite(float(cell)) else "infinite"
