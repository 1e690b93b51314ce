"""All runs, from the broker and from folders, in one list; and their values and updates for the page.

One thread steps the live runs. Any thread may call the catalog, which waits for the end of a step.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from fedmq.dashboard.live_runs import LiveRuns
from fedmq.dashboard.page_model import Origin, Values, all_values, changed_values, head_values, list_row, table_values
from fedmq.dashboard.run_folders import FoundRun, RunFolders
from fedmq.models.networks import Model
from fedmq.observe.run_state import RunState
from fedmq.runtime.clock import Clock
from fedmq.runtime.lock import is_locked

PageMessage = tuple[str, bytes]  # "full" or "patch", and its JSON


class PageCursor(NamedTuple):
    """The last event that pages have received, and the head sent with it."""

    term: int
    seq: int
    head: Values


class BestModel(NamedTuple):
    """The best model at the close of `round`; `parameters` are float64, little-endian."""

    model: Model
    task: str
    round: int
    parameters: bytes
    output_scale: float = 1.0


class PageUpdate(NamedTuple):
    """The new cursor, the patch for pages at the old one, and a message for each joining page."""

    cursor: PageCursor
    patch: PageMessage | None
    joining: list[PageMessage]


class RunCatalog:
    """The runs at one broker and in folders; `address` is the broker's."""

    def __init__(self, live_runs: LiveRuns, folders: RunFolders, *, address: str, clock: Clock) -> None:
        self._live_runs, self._folders, self._address, self._clock = live_runs, folders, address, clock
        self._folder_lock = threading.Lock()  # taken before the lock of the live runs where both are needed

    def stop(self) -> None:
        self._live_runs.stop()

    def runs(self) -> Values:
        """Return the list of runs: connected ones first, then the newest first."""
        now = self._clock.wall()
        with self._folder_lock:
            found = self._folders.runs()
            with self._live_runs.lock:
                shown = {run: self._live(run, found) for run in self._live_runs.runs}
                rows = {run: list_row(*live, now + live[1].ahead_s) for run, live in shown.items() if live is not None}
            for run in found.keys() - rows.keys():
                rows[run] = list_row(found[run].run_state, self._folder_origin(found[run]), now) | {"run": run}
        listed = sorted(rows.values(), key=lambda row: (not row["connected"], -float(row["event_at"])))
        broker = {"address": self._address, "connected": self._live_runs.connected}
        return {"now": round(now, 3), "broker": broker, "runs": listed}

    def update(self, run: str, cursor: PageCursor | None, joining: list[tuple[int, int] | None]) -> PageUpdate | None:
        """Return the changes since `cursor`, and a message for each joining page, by the last event that it has.

        None: there is no such run.
        """
        now = self._clock.wall()
        with self._run(run) as shown:
            return None if shown is None else _update(*shown, cursor, joining, now + shown[1].ahead_s)

    def values(self, run: str) -> Values | None:
        """Return all values of a run, or None if there is no such run."""
        with self._run(run) as shown:
            return None if shown is None else all_values(*shown, self._clock.wall() + shown[1].ahead_s)

    def best(self, run: str, number: int | None) -> BestModel | None:
        """Return the best model at the close of round `number` (None: now), or None if it is not known."""
        with self._run(run) as shown:
            if shown is None or (config := shown[0].config) is None:
                return None
            task = config.task
            bests = [one for one in shown[0].bests if number is None or one.round <= number]
            if not bests:
                return None
            return BestModel(task.model, task.name, bests[-1].round, bests[-1].parameters, task.output_scale)

    def is_over(self, run: str) -> bool:
        with self._run(run) as shown:
            return shown is not None and shown[0].finished is not None

    def close(self) -> None:
        with self._folder_lock:
            self._folders.close()

    @contextmanager
    def _run(self, run: str) -> Iterator[tuple[RunState, Origin] | None]:
        """Yield the state of a run, which does not change inside the context."""
        with self._folder_lock:
            found = self._folders.runs()
            with self._live_runs.lock:
                if (live := self._live(run, found)) is not None:
                    yield live
                    return
            run_state = self._folders.follow(found[run].folder) if run in found else None
            yield None if run_state is None else (run_state, self._folder_origin(found[run]))

    def _live(self, run: str, found: dict[str, FoundRun]) -> tuple[RunState, Origin] | None:
        """Return a run from the broker, or None if its folder is more recent: its aggregator is not connected."""
        watched = self._live_runs.runs.get(run)
        if watched is None:
            return None
        connected = watched.connected(self._clock.now())
        if run in found and not connected and watched.run_state.finished is None:
            return None
        folder = str(found[run].folder) if run in found else None
        return watched.run_state, Origin(connected, "live", folder, watched.ahead_s)

    def _folder_origin(self, found: FoundRun) -> Origin:
        return Origin(is_locked(found.folder), "folder", str(found.folder))


def _update(
    run_state: RunState, origin: Origin, cursor: PageCursor | None, joining: list[tuple[int, int] | None], now: float
) -> PageUpdate:
    head = head_values(run_state, origin, now)
    encoded: list[PageMessage] = []

    def full() -> PageMessage:
        if not encoded:  # once for all pages
            encoded.append(("full", msgspec.json.encode(all_values(run_state, origin, now))))
        return encoded[0]

    def can_patch(known: tuple[int, int], was_open: bool = True) -> bool:
        if run_state.finished is not None and was_open and known[1] < run_state.seq:
            return False  # the end removes an open round, which a patch cannot
        return known[0] == run_state.term and known[1] <= run_state.seq

    def patch(head: Values, since: int) -> PageMessage | None:
        tables = table_values(run_state, since)
        if not head and not tables:
            return None
        return "patch", msgspec.json.encode({"now": round(now, 3), "head": head, **tables})

    changes = None
    if cursor is not None:
        patched = can_patch((cursor.term, cursor.seq), cursor.head.get("open", True))
        changes = patch(changed_values(cursor.head, head), cursor.seq) if patched else full()
    messages = [
        (patch(head, known[1]) if known is not None and can_patch(known) else None) or full() for known in joining
    ]
    return PageUpdate(PageCursor(run_state.term, run_state.seq, head), changes, messages)
