"""Watching a run through its folder: its picture, kept up to date from what is appended to `events.jsonl`.

Knows nothing of networks, nor of what the picture is shown on.
"""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO

from fedmq.dashboard.live_runs import Watched
from fedmq.errors import BadConfiguration
from fedmq.observe.event_log import apply_line
from fedmq.observe.run_state import RunState
from fedmq.runtime.clock import Clock
from fedmq.runtime.lock import is_locked
from fedmq.runtime.run_folder import EVENTS

LOOK_S = 0.1  # between two looks at the file


class RunFolderFollower:
    """One folder, as `watching.Watching` is many runs at a broker.

    Raises:
        BadConfiguration: no events of a run are there.
    """

    def __init__(self, folder: Path, *, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        self._half = b""  # of a line whose end is not written yet
        self.there = True
        self._watched = Watched(RunState())
        self._file = self._open()
        self.step()
        if not self._watched.view.run:
            self.close()
            raise BadConfiguration(f"{folder}: expected the folder of a run, but {EVENTS} holds no events of one")
        self.runs = OrderedDict({self._watched.view.run: self._watched})

    def step(self) -> None:
        """Take what was written since the last time."""
        self._read()
        if self._is_anew():
            self._file.close()
            self._file, self._half = self._open(), b""
            self._watched.view = RunState()
            self._read()
        self._watched.heard_at = self._clock.now() if is_locked(self._folder) else -math.inf

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _read(self) -> None:
        for line in self._file:
            self._half += line
            if self._half.endswith(b"\n"):
                self._watched.view = apply_line(self._watched.view, self._half)
                self._half = b""

    def _is_anew(self) -> bool:
        """Whether another file stands in the place of the one that is read: it grew too long."""
        here = os.fstat(self._file.fileno())
        try:
            there = (self._folder / EVENTS).stat()
        except OSError:  # in the moment between
            return False
        return (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino)

    def _open(self) -> BinaryIO:
        try:
            return (self._folder / EVENTS).open("rb")
        except OSError as error:
            raise BadConfiguration(
                f"{self._folder}: expected the folder of a run, but {EVENTS} cannot be read ({error.strerror}); "
                "fedmq runs ls lists runs"
            ) from error


class Looks:
    """What a loop sleeps on where there is no network: it looks again after a while; see `loop.Waitable`."""

    def wait(self, timeout_s: float | None) -> None:
        time.sleep(LOOK_S if timeout_s is None else min(max(timeout_s, 0.0), LOOK_S))

    def wake(self) -> None:
        """See `loop.Waitable`; a wait is short."""
