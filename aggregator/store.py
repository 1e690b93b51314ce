"""The store of a run: what was accepted and what was closed, in one SQLite file. The only module that imports sqlite3.

Knows nothing of strategies or messages: it keeps frames as they came. A run *is* its accepted results in the order of
their closes; everything else (the archive, the model) is computed from them again, bit for bit, by `replay`.

One connection, write-ahead log, synchronous=FULL: what `commit` returned from survives a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). Anybody may read while one writes; only one may write, from its
first write to its end. SQLite's own lock ends with each transaction, so a lock on the folder (flock, which the kernel
lifts when a process dies, and which leaves no file) stands for the whole life.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

import msgspec

from fedmq.errors import StoreError
from fedmq.events import Best
from fedmq.tasks import Task
from fedmq.wire import Frames

SCHEMA_VERSION = 1
_T = TypeVar("_T")
_SCHEMA = """
CREATE TABLE run (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), description BLOB NOT NULL, epoch INTEGER NOT NULL);
CREATE TABLE results (
    round INTEGER NOT NULL, trainer TEXT NOT NULL, counted_in INTEGER NOT NULL, frames BLOB NOT NULL,
    PRIMARY KEY (round, trainer)
) WITHOUT ROWID;
CREATE INDEX results_by_close ON results (counted_in, round, trainer);
CREATE TABLE closes (round INTEGER PRIMARY KEY, summary BLOB NOT NULL);
"""


class Description(msgspec.Struct, frozen=True):
    """What a run is: chosen once, at its beginning."""

    run: str
    task: Task
    strategy: str
    seed: int
    started: float  # seconds since 1970


class Close(msgspec.Struct, frozen=True):
    """A closed round."""

    round: int
    why: str
    members: tuple[str, ...]
    results: int
    round_s: float
    closed: float  # seconds since 1970
    best: Best | None


class StoredResult(NamedTuple):
    """An accepted result; `frames` as they came."""

    round: int
    trainer: str
    counted_in: int
    frames: Frames


class Store:
    """A run's store; `path` ":memory:" keeps it for as long as the object lives.

    Every method raises StoreError when the file cannot be read or written, in one line with a way out.

    Raises:
        StoreError: the file is not a store, is damaged, or is of another schema.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = str(path)
        self._lock: int | None = None  # the folder, once this store has written
        try:
            self._connection = sqlite3.connect(self.path, isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
                version = SCHEMA_VERSION
        except sqlite3.Error as error:
            raise StoreError(f"{path}: expected the store of a run, got {error}; choose another --out") from error
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path}: expected a store of schema {SCHEMA_VERSION}, got {version}; use that fedmq for it"
            )

    @property
    def description(self) -> Description | None:
        """What the run is; None in a new store."""
        with self._reading():
            row = self._connection.execute("SELECT description FROM run").fetchone()
        return None if row is None else self._decode(row[0], Description, "description")

    def begin(self, description: Description) -> None:
        """Make a new store that of this run.

        Raises:
            StoreError: it holds a run already.
        """
        self._write("INSERT INTO run VALUES (1, ?, 0)", msgspec.msgpack.encode(description))
        self.commit()

    def next_epoch(self) -> int:
        """The epoch of this life of the aggregator: one more than the last one's, and on disk.

        Raises:
            StoreError: another aggregator writes to this store.
        """
        self._write("UPDATE run SET epoch = epoch + 1")
        self.commit()
        with self._reading():
            (epoch,) = self._connection.execute("SELECT epoch FROM run").fetchone()
        return int(epoch)

    def keep_result(self, result: StoredResult) -> None:
        """Save an accepted result; on disk after the next `commit`."""
        blob = msgspec.msgpack.encode(list(result.frames))
        self._write("INSERT INTO results VALUES (?, ?, ?, ?)", *result[:3], blob)

    def keep_close(self, close: Close) -> None:
        """Save that a round is closed; on disk after the next `commit`."""
        self._write("INSERT INTO closes VALUES (?, ?)", close.round, msgspec.msgpack.encode(close))

    def commit(self) -> None:
        """Return when everything that was kept is on disk."""
        if self._connection.in_transaction:
            with self._writing():
                self._connection.execute("COMMIT")

    def abandon(self) -> None:
        """Forget what was kept since the last `commit`, as a crash would."""
        if self._connection.in_transaction:
            with self._writing():
                self._connection.execute("ROLLBACK")

    def closes(self) -> Iterator[Close]:
        """The closed rounds, first to last."""
        with self._reading():
            for (blob,) in self._connection.execute("SELECT summary FROM closes ORDER BY round"):
                yield self._decode(blob, Close, "close")

    def results(self, counted_in: int) -> Iterator[StoredResult]:
        """The results that the close of this round uses, by (round, trainer)."""
        query = "SELECT * FROM results WHERE counted_in = ? ORDER BY round, trainer"
        with self._reading():
            for number, trainer, counted, blob in self._connection.execute(query, (counted_in,)):
                yield StoredResult(number, trainer, counted, self._decode(blob, list[bytes], "result"))

    def keys_since(self, round: int) -> set[tuple[int, str]]:
        """The (round, trainer) of every result of `round` and later ones."""
        with self._reading():
            return set(self._connection.execute("SELECT round, trainer FROM results WHERE round >= ?", (round,)))

    def close(self) -> None:
        """Let go of the file, without what was kept since the last `commit`."""
        with self._writing():
            self._connection.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write(self, statement: str, *values: object) -> None:
        self._claim()
        with self._writing():
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(statement, values)

    def _claim(self) -> None:
        """Be the only one that writes, from now to the end."""
        if self._lock is not None or self.path == ":memory:":
            return
        folder = None
        try:
            folder = os.open(Path(self.path).parent, os.O_RDONLY)
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if folder is not None:
                os.close(folder)
            busy = isinstance(error, BlockingIOError)
            raise StoreError(
                f"{self.path}: expected to be the only one that writes this run, but "
                + ("another process does; wait for its end, or " if busy else f"that cannot be had ({error}); ")
                + "choose another --out"
            ) from error
        self._lock = folder

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error}); what was acknowledged is safe: "
                "make room and start the same command again"
            ) from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: cannot be read ({error}); choose another --out") from error

    def _decode(self, blob: bytes, kind: type[_T], what: str) -> _T:
        try:
            return msgspec.msgpack.decode(blob, type=kind)
        except (msgspec.MsgspecError, TypeError) as error:  # a TypeError: not even bytes
            raise StoreError(f"{self.path}: a damaged {what} ({error}); choose another --out") from error
