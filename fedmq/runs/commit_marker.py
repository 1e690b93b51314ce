"""The witness of a store: how far it had come at its last commit, in a small file beside it.

Knows nothing of what is stored. SQLite takes a damaged end of its write-ahead log, and a log that somebody removed, for
what a crash left half written, and goes on without it; here it shows that what is missing had been acknowledged. It is
written after each commit and never synced: it may lag behind the store, but never runs ahead of it.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

_FIELDS = struct.Struct("<QQQ")


class Reached(NamedTuple):
    """How far a store has come; it never falls back."""

    term: int
    closed: int  # the last round that is closed
    results: int  # accepted for the close of the next one

    def covers(self, other: Reached) -> bool:
        """Whether this is at least as far."""
        return self.term >= other.term and self[1:] >= other[1:]


class CommitMarker:
    """The file at `path`; it is made with the first commit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def read(self) -> Reached | None:
        """What it says; None when it is not there, or is damaged itself."""
        try:
            content = self._path.read_bytes()
        except OSError:
            return None
        fields = content[: _FIELDS.size]
        whole = len(fields) == _FIELDS.size and content[_FIELDS.size :] == sha256(fields).digest()
        return Reached(*_FIELDS.unpack(fields)) if whole else None

    def write(self, reached: Reached) -> None:
        """Say so; where that cannot be written, an older word stands."""
        fields = _FIELDS.pack(*reached)
        with suppress(OSError):
            if self._file is None:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.pwrite(self._file, fields + sha256(fields).digest(), 0)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
