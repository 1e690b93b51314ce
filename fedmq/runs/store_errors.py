"""Translate storage failures (corruption, permissions, a replaced file) into StoreError."""

import os
from pathlib import Path

from fedmq.errors import StoreError


class StoreDamaged(StoreError):
    """The store of a run is damaged; `what` describes it without a way out."""

    def __init__(self, path: str, why: str) -> None:
        folder = Path(path).parent
        self.what = f"{path} is damaged or not the store of a run: {' '.join(why.split())}"  # a name may be many lines
        super().__init__(
            f"{self.what}; fedmq runs verify {folder} reports the last undamaged round, "
            f"fedmq runs recover {folder} --to-round N keeps that much"
        )


class Errors:
    """Translate exceptions of the kinds `unreadable` into a StoreError: one line about the file, with a way out."""

    def __init__(self, path: str, unreadable: tuple[type[Exception], ...]) -> None:
        self._path, self._unreadable = Path(path), unreadable
        self._identity: tuple[int, int] | None = None  # of the opened file

    def remember(self) -> None:
        """Remember the file at this path as the one that was opened."""
        self._identity = self._look()

    def check(self) -> None:
        """Check that the file at this path is the one that was opened.

        SQLite keeps writing to a removed file, which disappears with the process.

        Raises:
            StoreError: it was removed or replaced.
        """
        if self._identity is not None and self._look() != self._identity:
            raise StoreError(
                f"{self._path}: was moved, removed or replaced during the run, and the acknowledged results "
                "with it: move it back, or put a copy of the folder back, and start the same command again"
            )

    def _look(self) -> tuple[int, int] | None:
        try:
            found = self._path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError:  # unknown; the next write reports more
            return self._identity
        return found.st_dev, found.st_ino

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, self._unreadable):
            return
        self.check()
        code = getattr(error, "sqlite_errorname", "")
        reading = code.endswith(("_READ", "_CORRUPTFS", "_DATA"))  # else no space for the log or its index
        unreadable = code == "SQLITE_CANTOPEN" and self._path.exists() and not os.access(self._path, os.R_OK)
        if unreadable or code.startswith("SQLITE_READONLY"):
            raise StoreError(
                f"{self._path}: permission denied ({error}); reading needs write access too; acknowledged results "
                "are safe: as the owner of the folder, and where it can be written, start the same command again"
            ) from error
        if code == "SQLITE_FULL" or (code.startswith("SQLITE_IOERR") and not reading):
            raise StoreError(
                f"{self._path}: cannot be written ({error}); acknowledged results are safe: "
                "make room and start the same command again"
            ) from error
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_NOMEM")) and not self._path.is_dir():
            raise StoreError(
                f"{self._path}: cannot be opened ({error}); acknowledged results are safe: check its permissions, the "
                "limit of open files (ulimit -n) and the memory, and start the same command again"
            ) from error
        raise StoreDamaged(str(self._path), f"SQLite reports: {error}") from error
