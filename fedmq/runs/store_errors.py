"""What befalls the file of a store from outside: it is damaged, nobody may use it, or it is not the one any more.

Knows nothing of what is in it.
"""

from __future__ import annotations

import os
from pathlib import Path

from fedmq.errors import StoreError


class StoreDamaged(StoreError):
    """The store of a run is not as it was written; `what` says so without a way out."""

    def __init__(self, path: str, why: str) -> None:
        folder = Path(path).parent
        self.what = f"{path} is damaged or not the store of a run: {' '.join(why.split())}"  # a name may be many lines
        super().__init__(
            f"{self.what}; fedmq runs verify {folder} says how far it is whole, "
            f"fedmq runs recover {folder} --to-round N keeps that much"
        )


class OpenedFile:
    """The file at `path`, which need not be there before it is remembered."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._identity: tuple[int, int] | None = None

    def remember(self) -> None:
        """From now on this is the file that was opened."""
        self._identity = self._look()

    def check(self) -> None:
        """Nothing, while the file at this path is the one that was opened.

        SQLite goes on with a file that has no name any more, and what it holds ends with the process.

        Raises:
            StoreError: it was removed, or another is in its place.
        """
        if self._identity is not None and self._look() != self._identity:
            raise StoreError(
                f"{self._path}: was moved, removed or replaced while the run went on, and what was acknowledged went "
                "with it: move it back, or put a copy of the folder back, and start the same command again"
            )

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # it may well be there; what it is written to says more
            return self._identity
        return found.st_dev, found.st_ino


class Errors:
    """What says that a file is `unreadable` never passes this: it becomes one line about the file, with a way out."""

    def __init__(self, path: str, unreadable: tuple[type[Exception], ...]) -> None:
        self._path, self._unreadable, self.file = path, unreadable, OpenedFile(path)

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, self._unreadable):
            return
        self.file.check()
        code = getattr(error, "sqlite_errorname", "")
        reading = code.endswith(("_READ", "_CORRUPTFS", "_DATA"))  # else no room for the log, its index, ...
        unreadable = code == "SQLITE_CANTOPEN" and Path(self._path).exists() and not os.access(self._path, os.R_OK)
        if unreadable or code.startswith("SQLITE_READONLY"):
            raise StoreError(
                f"{self._path}: may not be used by you ({error}); reading writes, too; what was acknowledged is safe: "
                "as the owner of the folder, and where it can be written, start the same command again"
            ) from error
        if code == "SQLITE_FULL" or (code.startswith("SQLITE_IOERR") and not reading):
            raise StoreError(
                f"{self._path}: cannot be written ({error}); what was acknowledged is safe: "
                "make room and start the same command again"
            ) from error
        raise StoreDamaged(self._path, f"SQLite says: {error}") from error
