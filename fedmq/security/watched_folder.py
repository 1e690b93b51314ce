"""A folder of small files in memory: a service answers from it without opening a file for each question."""

import logging
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from fedmq.runtime.last_answer import LastAnswer

_T = TypeVar("_T")
log = logging.getLogger(__name__)


class WatchedFolder(Generic[_T]):
    """The content of each file with a suffix, by file name; files that have changed are read again every `every_s`.

    `read` returns None for a file to skip until it changes. A file or folder that cannot be read now keeps its last
    content, and is tried again at the next refresh. `files` is replaced, never changed: any thread may read it.
    """

    def __init__(self, folder: Path, suffix: str, read: Callable[[Path], _T | None], every_s: float) -> None:
        self.files: dict[str, _T] = {}
        self._folder, self._suffix, self._read, self._every_s = folder, suffix, read, every_s
        self._seen: dict[str, int] = {}  # file names and the times of their last change
        self._next = -math.inf
        self._scans, self._reads = LastAnswer(folder), LastAnswer(folder)

    def refresh(self, now: float) -> bool:
        """Read what has changed if a refresh is due; return whether `files` was replaced."""
        if now < self._next:
            return False
        self._next = now + self._every_s
        found = self._scans.of(self._scan, self._seen)
        if found is self._seen:  # it cannot be read: do not wait to try again, a revocation may be in it
            self._next = now
        if found == self._seen:
            return False
        files, seen = {}, {}
        for name in sorted(found):
            content = self.files.get(name)
            if found[name] == self._seen.get(name):
                seen[name] = found[name]
            else:
                content = self._reads.of(lambda: self._read_new(name, found[name], seen), content)  # noqa: B023
            if content is not None:
                files[name] = content
        self.files, self._seen = files, seen
        return True

    def expire(self) -> None:
        """Make the next refresh due at once: the folder has been written to."""
        self._next = -math.inf

    def _read_new(self, name: str, changed: int, seen: dict[str, int]) -> _T | None:
        content = self._read(self._folder / name)
        seen[name] = changed
        return content

    def _scan(self) -> dict[str, int]:
        """Return file names and times of change; a change of permissions counts."""
        try:
            with os.scandir(self._folder) as entries:
                return {entry.name: entry.stat().st_ctime_ns for entry in entries if entry.name.endswith(self._suffix)}
        except FileNotFoundError:  # no folder, or a file was removed during the scan: the next refresh is soon
            return {} if not self._folder.is_dir() else self._seen
