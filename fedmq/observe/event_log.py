"""`events.jsonl` in a run's folder: one event a line, with its time (seconds since 1970) as `at`.

The file is bounded: beyond its limit it restarts with one line that holds the state of the run so far.
"""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from fedmq.errors import BadConfiguration, FedmqError
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.protocol.messages import At
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.printable import printable_json
from fedmq.runtime.run_folder import writing_run_file
from fedmq.runtime.safe_files import open_private, open_regular

LOG_BYTES_MAX = 32 << 20
LINE_BYTES_MAX = LOG_BYTES_MAX  # a longer line is no event
FILE_BYTES_MAX = 2 * LOG_BYTES_MAX  # a larger file is not this log
TAIL_BYTES = 64 << 10  # enough for the status of a run


class _Stamp(msgspec.Struct, frozen=True):
    """The fields of every line."""

    at: At
    event: str


class _Summary(msgspec.Struct, frozen=True, tag_field="event", tag="summary"):
    """The first line of a restarted file."""

    at: At
    run_state: RunState = msgspec.field(name="view")  # the name in files


_stamp = msgspec.json.Decoder(_Stamp)
_event: msgspec.json.Decoder[events.AnyEvent] = msgspec.json.Decoder(events.AnyEvent)
_summary = msgspec.json.Decoder(_Summary)


class EventLog:
    """Appends events to `path`. `run_state` is the state of the file; apply events to it before writing them."""

    def __init__(self, path: Path, run_state: RunState, *, bytes_max: int = LOG_BYTES_MAX) -> None:
        self._path, self._run_state, self._bytes_max = path, run_state, bytes_max
        with writing_run_file(path):
            self._file: BinaryIO = os.fdopen(open_private(path, append=True), "a+b")
            if self._file.tell():  # a crash may have left half a line
                self._file.seek(-1, os.SEEK_END)
                if self._file.read(1) != b"\n":
                    self._file.write(b"\n")

    def __call__(self, at: float, *happened: events.AnyEvent) -> None:
        """Append the events of a step, `at` seconds since 1970.

        Raises:
            StoreError: the file cannot be written.
        """
        with writing_run_file(self._path):
            for event in happened:
                line = msgspec.json.encode({"at": at, **msgspec.to_builtins(event)})
                self._file.write(printable_json(line) + b"\n")
            # Accepted results are frequent, and not part of the status.
            if not all(isinstance(event, events.ResultAccepted) for event in happened):
                self._file.flush()
                if self._file.tell() > self._bytes_max:
                    self._restart(at)

    def _restart(self, at: float) -> None:
        summary = msgspec.json.encode(_Summary(at, self._run_state))
        write_whole(self._path, printable_json(summary) + b"\n", sync=False)
        self._file.close()
        self._file = os.fdopen(open_private(self._path, append=True), "ab")

    def close(self) -> None:
        """Write buffered events and close the file."""
        with writing_run_file(self._path):
            self._file.close()


def read_run_state(path: Path, *, tail: int | None = None) -> RunState:
    """Return the state after the events in `path`, or after its first line and the last `tail` bytes.

    Lines that are not events, such as a torn one, are skipped; a missing file has no events.

    Raises:
        BadConfiguration: the file cannot be read, or is too large for an event log.
    """
    run_state = RunState()
    try:
        with open_log(path) as file:
            run_state = apply_line(run_state, file.readline(LINE_BYTES_MAX))  # names the run
            if tail is not None:
                file.seek(max(file.tell(), os.fstat(file.fileno()).st_size - tail))
            for line in lines(file):
                run_state = apply_line(run_state, line)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise BadConfiguration(
            f"{path}: expected the events of a run, got: {error.strerror}: move it away, the run does not need it"
        ) from error
    return run_state


def open_log(path: Path) -> BinaryIO:
    """Open an event log to read.

    Raises:
        OSError: the file cannot be read, or is too large for an event log.
    """
    file = open_regular(path)
    if os.fstat(file.fileno()).st_size > FILE_BYTES_MAX:
        file.close()
        raise OSError(errno.EFBIG, f"it has more than {FILE_BYTES_MAX >> 20} MiB, which no event log has", str(path))
    return file


def lines(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of the lines; a line that is too long comes in parts, which are no events."""
    while line := file.readline(LINE_BYTES_MAX):
        yield line


def apply_line(run_state: RunState, line: bytes) -> RunState:
    """Return the state after one more line: `run_state`, updated, or the state that the line holds."""
    try:
        stamp = _stamp.decode(line)
        if stamp.event == "summary":
            return _summary.decode(line).run_state
        event = _event.decode(line)
    except (*MALFORMED, FedmqError):  # checks of a struct raise FedmqError
        return run_state
    run_state.apply(stamp.at, event)
    return run_state
