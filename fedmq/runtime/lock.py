"""The lock on a run's folder: one writer at a time.

It is an flock on the folder itself: the kernel releases it when the process ends, and it leaves no file.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Self

from fedmq.errors import StoreError

RETRY_S = 0.05  # `is_locked` holds the lock for a moment
_FLAGS = os.O_RDONLY | os.O_DIRECTORY  # a FIFO would block


class FolderLock:
    """The lock on `folder`, held from construction to `release`, or to the end of a `with` block.

    Raises:
        StoreError: another process holds it, or the folder cannot be opened.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = -1
        try:
            self._folder = os.open(folder, _FLAGS)
            if not _locked(self._folder, fcntl.LOCK_EX):
                time.sleep(RETRY_S)
                fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            busy = isinstance(error, BlockingIOError)
            raise StoreError(
                f"{folder}: expected no other process that writes this run, but "
                + ("there is one: wait for its end, or " if busy else f"the lock cannot be taken ({error}): ")
                + "choose another --out"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()

    def release(self) -> None:
        if self._folder >= 0:
            os.close(self._folder)
        self._folder = -1


def is_locked(folder: Path) -> bool:
    """Return whether a process holds the lock; False if the folder is missing or not readable."""
    try:
        descriptor = os.open(folder, _FLAGS)
    except OSError:
        return False
    try:
        return not _locked(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
