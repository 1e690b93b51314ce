"""The faults of a file, all at once: each kind with a count, its first place, and advice that fits."""

from dataclasses import dataclass

from fedmq.tables.table import TableFault

UNREADABLE = "the rows cannot be used"  # to others: names and lines of a site's own file are no business of theirs


@dataclass
class _Found:
    """A kind of fault, and how many lines have it."""

    place: tuple[int, int]  # line and column of the first
    expected: str
    got: str
    advice: str
    common: str
    count: int = 0


class TableFaults:
    """Collects the faults of a table of `total` lines or rows; `unit` is what is counted."""

    def __init__(self, unit: str = "lines") -> None:
        self._unit = unit
        self._found: dict[tuple[str, int], _Found] = {}
        self.total = 0

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(
        self,
        kind: str,
        place: tuple[int, int],
        expected: str,
        got: str,
        advice: str,
        *,
        column: int = -1,
        count: int = 1,
        common: str = "",
    ) -> None:
        """Add a fault at `place`, line and column: `expected` begins with that place in words.

        Only the first of a kind in a column is shown. `common` is the advice if more than half of the lines have it.
        """
        fault = self._found.setdefault((kind, column), _Found(place, expected, got, advice, common or advice))
        fault.count += count

    def listed(self) -> tuple[TableFault, ...]:
        """Return the faults in the order of the file."""
        faults = sorted(self._found.values(), key=lambda fault: fault.place)
        return tuple(TableFault(self._text(fault), UNREADABLE) for fault in faults)

    def _text(self, fault: _Found) -> str:
        advice = fault.common if 2 * fault.count > self.total else fault.advice
        return f"{fault.expected}, got {fault.got} (in {fault.count} of {self.total} {self._unit}): {advice}"
