"""The runs in a folder of runs, by name. Not thread-safe."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from fedmq.dashboard.run_folder_follower import RunFolderFollower
from fedmq.errors import BadConfiguration
from fedmq.names import NAME_PATTERN
from fedmq.observe.event_log import TAIL_BYTES
from fedmq.observe.run_state import RunState
from fedmq.runs.status import observe_run
from fedmq.runtime.clock import Clock
from fedmq.runtime.run_folder import EVENTS

FOLDERS_MAX = 1000  # the newest
FOLLOWED_MAX = 8  # run states in memory
SCAN_S = 1.0
LOOK_S = 0.1


class FoundRun(NamedTuple):
    """A run in a folder, after its last events; `stamp` (mtime, size, inode) identifies the version of its file."""

    folder: Path
    stamp: tuple[int, int, int]
    run_state: RunState


class RunFolders:
    """The run folders below `root`. Of several folders of one run, the one last written counts."""

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self._root, self._clock = root, clock
        self._found: dict[Path, FoundRun] = {}
        self._names: dict[str, FoundRun] = {}
        self._scan_at = 0.0
        self._followed: OrderedDict[Path, tuple[float, RunFolderFollower]] = OrderedDict()

    def runs(self) -> dict[str, FoundRun]:
        """Return the runs by name, the newest last; scans the folders at most every SCAN_S."""
        if (now := self._clock.now()) >= self._scan_at:
            self._scan_at = now + SCAN_S
            paths = sorted(self._stamps(), key=lambda one: one[1][0])[-FOLDERS_MAX:]
            self._found = {path: self._look(path, stamp) for path, stamp in paths}
            runs = self._found.values()
            self._names = {one.run_state.run: one for one in runs if re.match(NAME_PATTERN, one.run_state.run)}
        return self._names

    def follow(self, folder: Path) -> RunState | None:
        """Return the complete, current state of the run in that folder, or None if the folder is gone."""
        now = self._clock.now()
        looked_at, follower = self._followed.pop(folder, (now, None))
        try:
            if follower is None:
                follower = RunFolderFollower(folder, clock=self._clock)
            elif now - looked_at >= LOOK_S:
                follower.step()
                looked_at = now
        except (BadConfiguration, OSError):
            if follower is not None:
                follower.close()
            return None
        self._followed[folder] = looked_at, follower
        while len(self._followed) > FOLLOWED_MAX:
            _, (_, oldest) = self._followed.popitem(last=False)
            oldest.close()
        return next(iter(follower.runs.values())).run_state

    def close(self) -> None:
        for _, follower in self._followed.values():
            follower.close()
        self._followed.clear()

    def _stamps(self) -> list[tuple[Path, tuple[int, int, int]]]:
        found = []
        for path in self._root.glob(f"*/{EVENTS}"):
            try:
                stat = path.stat()
            except OSError:  # it was removed in between
                continue
            found.append((path.parent, (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
        return found

    def _look(self, folder: Path, stamp: tuple[int, int, int]) -> FoundRun:
        before = self._found.get(folder)
        return before if before is not None and before.stamp == stamp else FoundRun(folder, stamp, _status(folder))


def _status(folder: Path) -> RunState:
    """Return the state after the first and the last lines of a run's events: enough for a list."""
    try:
        run_state = observe_run(folder, tail=TAIL_BYTES)
    except (BadConfiguration, OSError):  # we may not read it
        run_state = RunState()
    run_state.works, run_state.bests, run_state.feed, run_state.rounds = [], [], [], run_state.rounds[-2:]
    return run_state
