"""The runs in a folder of runs, by their names: those of other times, and those whose aggregator is on this machine.

Knows nothing of the broker, nor of what the runs are shown on. Not for several threads at once.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from fedmq.dashboard.run_folder_follower import RunFolderFollower
from fedmq.errors import BadConfiguration
from fedmq.names import NAME_PATTERN
from fedmq.observe.event_log import TAIL_BYTES, read_run_state
from fedmq.observe.run_state import RunState
from fedmq.runtime.clock import Clock
from fedmq.runtime.run_folder import EVENTS

FOLDERS_MAX = 1000  # the newest
FOLLOWED_MAX = 8  # pictures that are held whole
SCAN_S = 1.0
LOOK_S = 0.1


class Found(NamedTuple):
    """A run in a folder, as far as its last events tell; `stamp` is that of its file, which has not changed since."""

    folder: Path
    stamp: tuple[int, int, int]
    view: RunState


class Folders:
    """What the folders below `root` hold. Of several of one run the one that was written last counts."""

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self._root, self._clock = root, clock
        self._found: dict[Path, Found] = {}
        self._names: dict[str, Found] = {}
        self._scan_at = 0.0
        self._followed: OrderedDict[Path, tuple[float, RunFolderFollower]] = OrderedDict()

    def runs(self) -> dict[str, Found]:
        """By name, the newest last; looked at again every SCAN_S."""
        if (now := self._clock.now()) >= self._scan_at:
            self._scan_at = now + SCAN_S
            paths = sorted(self._stamps(), key=lambda one: one[1][0])[-FOLDERS_MAX:]
            self._found = {path: self._look(path, stamp) for path, stamp in paths}
            self._names = {one.view.run: one for one in self._found.values() if re.match(NAME_PATTERN, one.view.run)}
        return self._names

    def follow(self, folder: Path) -> RunState | None:
        """The whole picture of the run in that folder, up to date; None when it is not there any more."""
        now = self._clock.now()
        looked_at, following = self._followed.pop(folder, (now, None))
        try:
            if following is None:
                following = RunFolderFollower(folder, clock=self._clock)
            elif now - looked_at >= LOOK_S:
                following.step()
                looked_at = now
        except (BadConfiguration, OSError):
            if following is not None:
                following.close()
            return None
        self._followed[folder] = looked_at, following
        while len(self._followed) > FOLLOWED_MAX:
            _, (_, old) = self._followed.popitem(last=False)
            old.close()
        return next(iter(following.runs.values())).view

    def close(self) -> None:
        """Let go of all files."""
        for _, following in self._followed.values():
            following.close()
        self._followed.clear()

    def _stamps(self) -> list[tuple[Path, tuple[int, int, int]]]:
        found = []
        for path in self._root.glob(f"*/{EVENTS}"):
            try:
                stat = path.stat()
            except OSError:  # in the moment between
                continue
            found.append((path.parent, (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
        return found

    def _look(self, folder: Path, stamp: tuple[int, int, int]) -> Found:
        before = self._found.get(folder)
        return before if before is not None and before.stamp == stamp else Found(folder, stamp, _glance(folder))


def _glance(folder: Path) -> RunState:
    """What the first line and the last ones of a run's events come to: enough for a list, without its rows."""
    try:
        view = read_run_state(folder / EVENTS, tail=TAIL_BYTES)
    except OSError:  # it is nobody's to read
        view = RunState()
    view.works, view.bests, view.feed, view.rounds = [], [], [], view.rounds[-2:]
    return view
