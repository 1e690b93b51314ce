"""A trainer's rows, run by run: a run keeps its rows; a new one gets the file as it is now.

Called from the worker's thread, except `count`: reading a large file must not stop the loop.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from contextlib import suppress

from fedmq.data.readers import files_of, load_data
from fedmq.errors import BadData, one_line
from fedmq.tables.table import Table
from fedmq.tasks.row_views import count_rows
from fedmq.tasks.task import Rows

RUNS_REMEMBERED = 64

log = logging.getLogger(__name__)

Signature = tuple[tuple[str, int, int, int], ...]


class RowsSource:
    """The rows that `spec` names, with `check` as a condition on their number; `held_out` is another source, or None.

    Raises:
        BadData: the rows cannot be read or used.
    """

    def __init__(
        self, spec: str, check: Callable[[int], None] = lambda _count: None, held_out: str | None = None
    ) -> None:
        self.held_out = None if held_out is None else RowsSource(held_out)
        self._spec, self._check = spec, check
        self._signature = _signature(spec)
        self.newest = self._read()  # and the rows before for the runs that began with them: no older ones
        self._of: OrderedDict[str, Rows | Table] = OrderedDict()  # by run

    def of(self, run: str, names: Collection[str] = ()) -> Rows | Table:
        """Return the rows of a run; for a new run, read them again if the file has changed.

        `names` are those of the columns that its task needs: a table without them is read once more, with their help.

        Raises:
            BadData: it has changed and cannot be read or used; the next call tries again.
        """
        if run not in self._of:
            signature = _signature(self._spec)
            if signature != self._signature:
                before = count_rows(self.newest)
                self._replace(signature)
                now = count_rows(self.newest)
                log.warning(
                    "%s has changed and is read again for run %s: %s rows, before %s", self._spec, run, now, before
                )
            self._of[run] = self.newest
        rows = self._of[run]
        if isinstance(rows, Table) and not set(names) <= set(rows.names):
            self._replace(self._signature, names)
            self._of[run] = self.newest
        self._of.move_to_end(run)
        while len(self._of) > RUNS_REMEMBERED:
            self._of.popitem(last=False)
        return self._of[run]

    @property
    def num_rows(self) -> int:
        """The number of rows as they were read last."""
        return count_rows(self.newest)

    def count(self, run: str) -> int:
        """Return the number of rows of a run."""
        return count_rows(self._of.get(run, self.newest))

    def reload(self) -> int:
        """Read the rows for all runs, changed or not; return their number.

        Raises:
            BadData: they cannot be read or used; the runs keep the rows that they have.
        """
        if self.held_out is not None:
            self.held_out.reload()
        self._replace(_signature(self._spec))
        self._of.clear()
        return count_rows(self.newest)

    def _replace(self, signature: Signature, names: Collection[str] = ()) -> None:
        before = self.newest
        try:
            rows = self._read(names)
        except BadData:
            raise
        except Exception as error:  # a FILE.py that fails, a folder that is locked
            raise BadData(one_line(error)) from error
        self.newest, self._signature = rows, signature
        for run in [run for run, kept in self._of.items() if kept is not before]:
            del self._of[run]

    def _read(self, names: Collection[str] = ()) -> Rows | Table:
        rows = load_data(self._spec, tuple(names))
        if isinstance(rows, Table):
            rows.check()
            for note in rows.notes:
                log.info("%s", note)  # a task with a schema warns of them
        self._check(count_rows(rows))
        return rows


def _signature(spec: str) -> Signature:
    """Return what changes when the files of the rows change; a missing file counts as changed."""
    found = []
    with suppress(OSError):
        for path in files_of(spec):
            status = path.stat()
            found.append((str(path), status.st_ctime_ns, status.st_size, status.st_ino))  # ctime: other rights count
    return tuple(found)
