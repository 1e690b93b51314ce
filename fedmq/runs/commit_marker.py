"""The commit marker of a store: its extent at the last commit, in a small file beside it.

SQLite treats a damaged or removed write-ahead log as an incomplete transaction, and drops it. The marker reveals that
the lost records had been acknowledged. It is written after each commit and never synced: it may lag behind the store,
but is never ahead of it.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from fedmq.runtime.safe_files import open_private, read_regular

_FIELDS = struct.Struct("<QQQ")
_FILE_BYTES = _FIELDS.size + sha256().digest_size


class Reached(NamedTuple):
    """The extent of a store; it never shrinks."""

    term: int
    closed: int  # the last closed round
    results: int  # accepted for the close of the next one

    def covers(self, other: Reached) -> bool:
        """Return whether this extent is at least the other."""
        return self.term >= other.term and self[1:] >= other[1:]


class CommitMarker:
    """The file at `path`, created with the first commit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def read(self) -> Reached | None:
        """Return the extent in the file; None if it is missing or damaged."""
        try:
            content = read_regular(self._path, _FILE_BYTES)
        except OSError:
            return None
        fields = content[: _FIELDS.size]
        whole = len(fields) == _FIELDS.size and content[_FIELDS.size :] == sha256(fields).digest()
        return Reached(*_FIELDS.unpack(fields)) if whole else None

    def write(self, reached: Reached) -> None:
        """Write the extent; an older one stays if that fails."""
        fields = _FIELDS.pack(*reached)
        with suppress(OSError):
            if self._file is None:
                self._file = open_private(self._path)
            os.pwrite(self._file, fields + sha256(fields).digest(), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
