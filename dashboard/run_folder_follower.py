"""Follows one run folder: its run state, updated from the lines appended to `events.jsonl`."""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from fedmq.dashboard.live_runs import WatchedRun
from fedmq.errors import BadConfiguration
from fedmq.observe.event_log import apply_line
from fedmq.observe.run_state import RunState
from fedmq.runs.status import finish
from fedmq.runtime.clock import Clock
from fedmq.runtime.lock import is_locked
from fedmq.runtime.run_folder import EVENTS

POLL_S = 0.1


class RunFolderFollower:
    """The run in one folder, with the attributes of `LiveRuns`.

    Raises:
        BadConfiguration: the folder holds no events of a run.
    """

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
        for line in self._file:
            self._partial += line
            if self._partial.endswith(b"\n"):
                self._watched.run_state = apply_line(self._watched.run_state, self._partial)
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
            return (self._folder / EVENTS).open("rb")
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
