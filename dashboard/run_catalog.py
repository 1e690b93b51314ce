"""All runs that can be shown, those at the broker and those in folders, as one list; and their pictures for the page.

The broker's are kept up to date by the thread that steps this (see `loop.Service`); whatever thread asks waits while it
does. Knows nothing of HTTP.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from fedmq.dashboard.folders import Folders, Found
from fedmq.dashboard.live_runs import LiveRuns
from fedmq.dashboard.page_model import Origin, Values, changes, full_of, head_of, row_of, tables_of
from fedmq.models.code import Model
from fedmq.observe.run_state import RunState
from fedmq.runtime.clock import Clock
from fedmq.runtime.lock import is_locked

Message = tuple[str, bytes]  # the kind, and its JSON


class Cursor(NamedTuple):
    """How far somebody has been told: the event, and the head that went with it."""

    term: int
    seq: int
    head: Values


class BestModel(NamedTuple):
    """A model to draw: `genes` are float64, little-endian, of the best one when `round` was closed."""

    model: Model
    task: str
    round: int
    genes: bytes


class News(NamedTuple):
    """What is to be told of a run: `patch` to who was at the cursor, `joining` to each who has just come."""

    cursor: Cursor
    patch: Message | None
    joining: list[Message]


class RunCatalog:
    """The runs at one broker and in a folder; `address` is the broker's."""

    def __init__(self, watching: LiveRuns, folders: Folders, *, address: str, clock: Clock) -> None:
        self._watching, self._folders, self._address, self._clock = watching, folders, address, clock
        self._lock = threading.Lock()  # on what is watched,
        self._asking = threading.Lock()  # and on the folders; who wants both takes this one first

    # --- the thread that watches ---------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self._watching.done

    @property
    def wake_at(self) -> float | None:
        return self._watching.wake_at

    @property
    def status(self) -> str:
        return self._watching.status

    def stop(self) -> None:
        self._watching.stop()

    def step(self) -> None:
        with self._lock:
            self._watching.step()

    # --- any thread ---------------------------------------------------------------------------------------------

    def runs(self) -> Values:
        """The list: those whose aggregator is there first, then the newest first."""
        now = self._clock.wall()
        with self._asking:
            found = self._folders.runs()
            with self._lock:
                shown = {run: self._live(run, found) for run in self._watching.runs}
                rows = {run: row_of(*live, now + live[1].ahead_s) for run, live in shown.items() if live is not None}
            for run in found.keys() - rows.keys():
                rows[run] = row_of(found[run].view, self._origin(found[run]), now)
        listed = sorted(rows.values(), key=lambda row: (not row["here"], -float(row["event_at"])))
        return {"now": round(now, 3), "broker": {"address": self._address, "there": self.there}, "runs": listed}

    @property
    def there(self) -> bool:
        """Whether the broker is."""
        return self._watching.there

    def news(self, run: str, cursor: Cursor | None, joining: list[tuple[int, int] | None]) -> News | None:
        """What has changed since `cursor`, and what those who join are told; each says up to which event it knows.

        None: there is no such run.
        """
        now = self._clock.wall()
        with self._shown(run) as shown:
            return None if shown is None else _news(*shown, cursor, joining, now + shown[1].ahead_s)

    def picture(self, run: str) -> Values | None:
        """Everything about a run; None: there is no such run."""
        with self._shown(run) as shown:
            return None if shown is None else full_of(*shown, self._clock.wall() + shown[1].ahead_s)

    def best(self, run: str, number: int | None) -> BestModel | None:
        """The model that was the best at the close of that round (None: now); None: there is none that can be drawn."""
        with self._shown(run) as shown:
            if shown is None or shown[0].model is None:
                return None
            view = shown[0]
            known = [one for one in view.bests if number is None or one.round <= number]
            return BestModel(view.model, view.task, known[-1].round, known[-1].genes) if view.model and known else None

    def is_over(self, run: str) -> bool:
        """Whether nothing more will happen in that run."""
        with self._shown(run) as shown:
            return shown is not None and shown[0].finished is not None

    def close(self) -> None:
        """Let go of all files."""
        with self._asking:
            self._folders.close()

    # --- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _shown(self, run: str) -> Iterator[tuple[RunState, Origin] | None]:
        """A run's picture, which stands still for as long as this lasts."""
        with self._asking:
            found = self._folders.runs()
            with self._lock:
                if (live := self._live(run, found)) is not None:
                    yield live
                    return
            view = self._folders.follow(found[run].folder) if run in found else None
            yield None if view is None else (view, self._origin(found[run]))

    def _live(self, run: str, found: dict[str, Found]) -> tuple[RunState, Origin] | None:
        """A run as it was told at the broker, unless its folder knows better: nobody has told of it for a while."""
        watched = self._watching.runs.get(run)
        if watched is None:
            return None
        here = watched.here(self._clock.now())
        if run in found and not here and watched.view.finished is None:
            return None
        folder = str(found[run].folder) if run in found else None
        return watched.view, Origin(here, "live", folder, self.there, watched.ahead_s)

    def _origin(self, found: Found) -> Origin:
        return Origin(is_locked(found.folder), "folder", str(found.folder), self.there)


def _news(
    view: RunState, origin: Origin, cursor: Cursor | None, joining: list[tuple[int, int] | None], now: float
) -> News:
    head = head_of(view, origin, now)
    made: list[Message] = []

    def full() -> Message:
        if not made:  # once for all
            made.append(("full", msgspec.json.encode(full_of(view, origin, now))))
        return made[0]

    def follows(knows: tuple[int, int], was_open: bool = True) -> bool:
        if view.finished is not None and was_open and knows[1] < view.seq:
            return False  # the end takes an open round back, and no patch says that
        return knows[0] == view.term and knows[1] <= view.seq

    def patch(head: Values, since: int) -> Message | None:
        tables = tables_of(view, since)
        if not head and not tables:
            return None
        return "patch", msgspec.json.encode({"now": round(now, 3), "head": head, **tables})

    news = None
    if cursor is not None:
        goes_on = follows((cursor.term, cursor.seq), cursor.head.get("open", True))
        news = patch(changes(cursor.head, head), cursor.seq) if goes_on else full()
    told = []
    for knows in joining:
        told.append((patch(head, knows[1]) if knows is not None and follows(knows) else None) or full())
    return News(Cursor(view.term, view.seq, head), news, told)
