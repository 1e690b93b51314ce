"""`events.jsonl` in a run's folder: one event a line, with the time (seconds since 1970) as `at`.

Knows nothing of what the events are for. The file is bounded: when it has grown too long it begins anew, with one line
that holds what the events before it came to.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import msgspec

from fedmq.errors import FedmqError
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.protocol.messages import At
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.run_folder import writing

LOG_BYTES_MAX = 32 << 20
TAIL_BYTES = 64 << 10  # enough to see how a run stands


class _Stamp(msgspec.Struct, frozen=True):
    """What every line has."""

    at: At
    event: str


class _Summary(msgspec.Struct, frozen=True, tag_field="event", tag="summary"):
    """The first line of a file that began anew."""

    at: At
    view: RunState


_stamp = msgspec.json.Decoder(_Stamp)
_event: msgspec.json.Decoder[events.AnyEvent] = msgspec.json.Decoder(events.AnyEvent)
_summary = msgspec.json.Decoder(_Summary)


class EventLog:
    """Appends to `path`; `view` is what the file holds, and takes each event before it is written here."""

    def __init__(
        self, path: Path, wall: Callable[[], float], view: RunState, *, bytes_max: int = LOG_BYTES_MAX
    ) -> None:
        self._path, self._wall, self._view, self._bytes_max = path, wall, view, bytes_max
        with writing(path):
            self._file: BinaryIO = path.open("a+b")
            if self._file.tell():  # a life that was killed may have left half a line
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")

    def __call__(self, event: events.AnyEvent) -> None:
        """Append `event`.

        Raises:
            StoreError: it cannot be written.
        """
        fields = {"at": self._wall(), **msgspec.to_builtins(event)}
        with writing(self._path):
            self._file.write(msgspec.json.encode(fields) + b"\n")
            if not isinstance(event, events.ResultAccepted):  # the others show how the run stands
                self._file.flush()
                if self._file.tell() > self._bytes_max:
                    self._begin_anew()

    def _begin_anew(self) -> None:
        write_whole(self._path, msgspec.json.encode(_Summary(self._wall(), self._view)) + b"\n", sync=False)
        self._file.close()
        self._file = self._path.open("ab")

    def close(self) -> None:
        """Write what is buffered and let go of the file."""
        with writing(self._path):
            self._file.close()


def read_view(path: Path, *, tail: int | None = None) -> RunState:
    """What the events in `path` come to; of the first line and the last `tail` bytes alone, if that is given.

    A line that is no event, such as a torn one, is left out; a file that is not there holds none.
    """
    view = RunState()
    try:
        with path.open("rb") as file:
            view = take_line(view, file.readline())  # it says which run it is
            if tail is not None:
                file.seek(max(file.tell(), path.stat().st_size - tail))
            for line in file:
                view = take_line(view, line)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return view


def take_line(view: RunState, line: bytes) -> RunState:
    """What one more line of the file comes to: `view`, which has taken it, or the one that the line holds."""
    try:
        stamp = _stamp.decode(line)
        if stamp.event == "summary":
            return _summary.decode(line).view
        event = _event.decode(line)
    except (msgspec.MsgspecError, FedmqError, RecursionError):  # a struct's own checks raise FedmqError
        return view
    view.take(stamp.at, event)
    return view
