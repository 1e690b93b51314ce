"""The runs in a folder of runs, by name, and the run in one folder, followed while it is live. Not thread-safe."""

import math
import os
import re
import time
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from fedmq.dashboard.live_runs import WatchedRun
from fedmq.errors import BadConfiguration
from fedmq.names import NAME_PATTERN
from fedmq.observe.event_log import FILE_BYTES_MAX, LINE_BYTES_MAX, TAIL_BYTES, apply_line, lines, open_log
from fedmq.observe.run_state import RunState
from fedmq.runs.status import finish, observe_run
from fedmq.runtime.clock import Clock
from fedmq.runtime.last_answer import LastAnswer
from fedmq.runtime.lock import is_locked
from fedmq.runtime.run_folder import EVENTS

FOLDERS_MAX = 1000  # the newest
FOLLOWED_MAX = 8  # run states in memory
SCAN_S = 1.0
POLL_S = 0.1


class FoundRun(NamedTuple):
    """A run in a folder, after its last events; `stamp` (mtime, size, inode) identifies the version of its file."""

    folder: Path
    stamp: tuple[int, int, int]
    run_state: RunState


class RunFolders:
    """The run folders below `root`.

    Of several folders of one run, the one last written has the name of the run, the others their own names.
    """

    def __init__(self, root: Path, *, clock: Clock) -> None:
        self._root, self._clock = root, clock
        self._found: dict[Path, FoundRun] = {}
        self._names: dict[str, FoundRun] = {}
        self._scan_at = 0.0
        self._logs, self._listing = list[Path](), LastAnswer(root)
        self._followed: OrderedDict[Path, tuple[float, RunFolderFollower]] = OrderedDict()

    def runs(self) -> dict[str, FoundRun]:
        """Return the runs by name, the newest last; scans the folders at most every SCAN_S."""
        if (now := self._clock.now()) >= self._scan_at:
            self._scan_at = now + SCAN_S
            paths = sorted(self._stamps(), key=lambda one: one[1][0])[-FOLDERS_MAX:]
            self._found = {path: self._look(path, stamp) for path, stamp in paths}
            self._names = _by_name(self._found.values())
        return self._names

    def follow(self, folder: Path) -> RunState | None:
        """Return the complete, current state of the run in that folder, or None if the folder is gone."""
        now = self._clock.now()
        looked_at, follower = self._followed.pop(folder, (now, None))
        try:
            if follower is None:
                follower = RunFolderFollower(folder, clock=self._clock)
            elif now - looked_at >= POLL_S:
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
        self._logs = self._listing.of(lambda: list(self._root.glob(f"*/{EVENTS}")), self._logs)
        for path in self._logs:
            try:
                stat = path.stat()
            except OSError:  # it was removed in between
                continue
            found.append((path.parent, (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
        return found

    def _look(self, folder: Path, stamp: tuple[int, int, int]) -> FoundRun:
        before = self._found.get(folder)
        return before if before is not None and before.stamp == stamp else FoundRun(folder, stamp, _status(folder))


def _by_name(runs: Collection[FoundRun]) -> dict[str, FoundRun]:
    """Return runs, the newest last, by unique names."""
    names: dict[str, FoundRun] = {}
    for one in reversed(list(runs)):
        for name in (one.run_state.run, one.folder.name):
            if re.match(NAME_PATTERN, one.run_state.run) and re.match(NAME_PATTERN, name) and name not in names:
                names[name] = one
                break
    return dict(reversed(names.items()))


def _status(folder: Path) -> RunState:
    """Return the state after the first and the last lines of a run's events: enough for a list."""
    try:
        run_state = observe_run(folder, tail=TAIL_BYTES)
    except (BadConfiguration, OSError):  # we may not read it
        run_state = RunState()
    run_state.works, run_state.bests, run_state.feed, run_state.rounds = [], [], [], run_state.rounds[-2:]
    return run_state


class RunFolderFollower:
    """The run in one folder, with the attributes of `LiveRuns`; BadConfiguration if it holds no events of a run."""

    def __init__(self, folder: Path, *, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._partial = b""  # a line still being written
        self.connected = True
        self._watched = WatchedRun(RunState())
        self._file = self._open()
        self.step()
        if not self._watched.run_state.run:
            self.close()
            raise BadConfiguration(f"{folder}: expected the folder of a run, but {EVENTS} holds no events of one")
        self.runs = OrderedDict({self._watched.run_state.run: self._watched})

    def step(self) -> None:
        """Apply the lines written since the last step."""
        self._read()
        if self._is_replaced():
            self._file.close()
            self._file, self._partial = self._open(), b""
            self._watched.run_state = RunState()
            self._read()
        with suppress(BadConfiguration):  # the report cannot be read
            finish(self._watched.run_state, self._folder)
        self._watched.received_at = self._clock.now() if is_locked(self._folder) else -math.inf

    def close(self) -> None:
        self._file.close()

    def _read(self) -> None:
        if os.fstat(self._file.fileno()).st_size > FILE_BYTES_MAX:  # it has grown
            raise BadConfiguration(f"{self._folder}: expected the folder of a run, but {EVENTS} is too large for one")
        for line in lines(self._file):
            self._partial += line
            if self._partial.endswith(b"\n"):
                self._watched.run_state = apply_line(self._watched.run_state, self._partial)
            if self._partial.endswith(b"\n") or len(self._partial) > LINE_BYTES_MAX:
                self._partial = b""

    def _is_replaced(self) -> bool:
        """Return whether the path names another file than the open one: the event log restarted."""
        opened = os.fstat(self._file.fileno())
        try:
            current = (self._folder / EVENTS).stat()
        except OSError:  # it was removed in between
            return False
        return (opened.st_dev, opened.st_ino) != (current.st_dev, current.st_ino)

    def _open(self) -> BinaryIO:
        try:
            return open_log(self._folder / EVENTS)
        except OSError as error:
            raise BadConfiguration(
                f"{self._folder}: expected the folder of a run, but {EVENTS} cannot be read ({error.strerror}); "
                "fedmq runs ls lists runs"
            ) from error


class PollWait:
    """The wait of a loop without a network: poll again after POLL_S; see `loop.Waitable`."""

    def wait(self, timeout_s: float | None) -> None:
        time.sleep(POLL_S if timeout_s is None else min(max(timeout_s, 0.0), POLL_S))

    def wake(self) -> None: ...
