"""The store of a run: accepted results and closed rounds, in one SQLite file. The only module that imports sqlite3.

A run *is* its accepted results in the order of their closes. Everything else (the archive, the model) is computed from
them again, bit for bit, by `replay`. Frames are stored as they arrived.

One connection, write-ahead log, synchronous=FULL: committed records survive a power cut
(https://www.sqlite.org/pragma.html#pragma_synchronous). Many processes may read while one writes. SQLite's own lock
ends with each transaction, so a lock on the folder keeps other writers out for the whole life of the aggregator.
Frames over 1 MiB are files beside the store, named by their SHA-256 and on disk before the row that names them. Every
row carries a digest that is checked when it is read, and each close a digest over all rows before it: a changed,
dropped or inserted row is detected.
"""

import errno
import os
import sqlite3
import stat
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar, assert_never

import msgspec

from fedmq.errors import BadConfiguration, StoreError
from fedmq.protocol.run_config import STALENESS_MAX, Limits, RunConfig
from fedmq.runs.blobs import Blobs
from fedmq.runs.commit_marker import CommitMarker, Reached
from fedmq.runs.records import (
    Checkpoint,
    Close,
    DropOldRounds,
    Invitation,
    OpenSum,
    Record,
    StoredResult,
    StoredTotal,
    TotalHeader,
)
from fedmq.runs.software import Software, software_here
from fedmq.runs.store_errors import Errors, StoreDamaged
from fedmq.runtime.lock import FolderLock
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.run_folder import writing_run_file
from fedmq.runtime.safe_files import open_private, private_mode

SCHEMA_VERSION = 8
_WITHOUT_SUMS = 7  # the schema before secure sums only lacks a table: the first write adds it
TOTAL = ""  # in place of the trainer of a result: no trainer has this name
_T = TypeVar("_T")
# The module sqlite3 also fails at damaged text (UnicodeError) and at damaged sizes.
_UNREADABLE = (sqlite3.Error, UnicodeError, MemoryError, OverflowError)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1), config BLOB NOT NULL, code BLOB NOT NULL, term INTEGER NOT NULL,
    software BLOB NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS results (
    round INTEGER NOT NULL, trainer TEXT NOT NULL, counted_in INTEGER NOT NULL, frames BLOB NOT NULL,
    digest BLOB NOT NULL, PRIMARY KEY (round, trainer)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS results_by_close ON results (counted_in, round, trainer);
CREATE TABLE IF NOT EXISTS closes (
    round INTEGER PRIMARY KEY, summary BLOB NOT NULL, before BLOB NOT NULL, digest BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS invitations (round INTEGER PRIMARY KEY, record BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sums (place INTEGER PRIMARY KEY, record BLOB NOT NULL, digest BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS checkpoints (round INTEGER PRIMARY KEY, state BLOB NOT NULL, digest BLOB NOT NULL);
"""


class _Run(NamedTuple):
    """The one row of the table `run`."""

    config: bytes
    code: bytes
    term: int
    software: bytes


_SOFTWARE = msgspec.msgpack.Decoder(list[Software])
_CONFIG, _CLOSE = msgspec.msgpack.Decoder(RunConfig), msgspec.msgpack.Decoder(Close)
_INVITATION, _TOTAL = msgspec.msgpack.Decoder(Invitation), msgspec.msgpack.Decoder(TotalHeader)
_OPEN_SUM, _MESSAGE = msgspec.msgpack.Decoder(OpenSum), msgspec.msgpack.Decoder(tuple[str, bytes])
_FRAMES = msgspec.msgpack.Decoder(list[bytes | list[bytes]])  # a list in place of a frame names its file


class Store:
    """A run's store, closed by `close` or at the end of a `with` block.

    `path` ":memory:" keeps it for as long as the object lives; its owner need not close it. A writer that decides by
    what it reads holds the `lock` on the folder before; without one, the first write takes it, until `close`.

    Every method raises StoreError if the file cannot be read or written.

    Raises:
        StoreError: the file is not a store, is damaged, or has another schema.
    """

    def __init__(self, path: Path | str, lock: FolderLock | None = None) -> None:
        self.path, self._is_locked = str(path), lock is not None
        self._errors = Errors(self.path, _UNREADABLE)
        self._blobs = None if self.path == ":memory:" else Blobs(Path(path).with_name("blobs"))
        self._commit_marker = (
            None if self.path == ":memory:" else CommitMarker(Path(path).with_suffix(".commit-marker"))
        )
        self._lock: FolderLock | None = None  # after the first write
        if self._blobs is not None:
            _prepare(Path(path))
        with self._errors:
            self._connection = sqlite3.connect(
                self.path, isolation_level=None, timeout=2.0, check_same_thread=self.path != ":memory:"
            )
        if self.path == ":memory:":  # any thread may collect this object
            weakref.finalize(self, self._connection.close)
        try:
            self._open()
        except StoreError:
            self._connection.close()
            raise

    def _open(self) -> None:
        with self._errors:
            self._connection.execute("PRAGMA cell_size_check = ON")
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            (version,) = self._connection.execute("PRAGMA user_version").fetchone()
            if version == 0:
                version = self._make_tables()
        self._errors.remember()
        self._version = version
        if version not in (SCHEMA_VERSION, _WITHOUT_SUMS):
            raise StoreError(
                f"{self.path}: expected a store of schema {SCHEMA_VERSION}, got {version}; "
                "continue the run with the version of fedmq that wrote it, or choose another --out"
            )

    def _make_tables(self) -> int:
        """Add the tables that are missing; return the version of the schema."""
        self._connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        return SCHEMA_VERSION

    # --- the run ------------------------------------------------------------------------------------------------

    @property
    def config(self) -> RunConfig | None:
        """The configuration of the run; None in a new store."""
        row = self._run()
        return None if row is None else self._decode(row.config, _CONFIG)

    @property
    def code(self) -> bytes | None:
        """The packed code that the run's task names; None: the task has none."""
        row = self._run()
        return None if row is None else row.code or None

    @property
    def term(self) -> int:
        """The term of the newest life of the run's aggregator; 0: it had none."""
        row = self._run()
        return 0 if row is None else row.term

    @property
    def software(self) -> list[Software]:
        """The different versions of the run's lives, oldest first."""
        row = self._run()
        return [] if row is None else self._decode(row.software, _SOFTWARE)

    def begin(
        self, config: RunConfig, code: bytes | None = None, term: int = 0, software: Sequence[Software] = ()
    ) -> None:
        """Make an empty store the store of this run, whose newest life had this term and whose lives this software."""
        self._check_reached()
        row = _Run(msgspec.msgpack.encode(config), code or b"", term, msgspec.msgpack.encode(software))
        self._write("INSERT INTO run VALUES (1, ?, ?, ?, ?, ?)", *row, _digest(*row))
        self.commit()

    def change_limits(self, limits: Limits) -> None:
        """Replace the limits of the run, as its configuration allows."""
        config = self.config
        assert config is not None, "the store must have been begun"
        if limits != config.limits:
            self._update_run(config=msgspec.msgpack.encode(msgspec.structs.replace(config, limits=limits)))

    def next_term(self, wall: float) -> int:
        """Return the term of a life that begins at `wall` (seconds since 1970), once it and its software are on disk.

        It is `wall` in ms, but above the last term: terms stay monotonic after a restored backup, and in a new run of
        the same name.
        """
        self._check_reached()
        for (line,) in self._read("PRAGMA quick_check(1)"):  # a page that no query reads may still block a write
            self._check(line == "ok", "the list of its pages")
        term = max(self.term + 1, int(1000 * wall))
        software = self.software
        if (here := software_here()) not in software:
            software.append(here)
        self._update_run(term=term, software=msgspec.msgpack.encode(software))
        return term

    def _run(self) -> _Run | None:
        row = self._row("SELECT config, code, term, software, digest FROM run")
        if row is None:
            return None
        self._check(row[4] == _digest(*row[:4]), "the configuration of the run")
        return _Run(*row[:4])

    def _update_run(self, **changes: Any) -> None:
        row = self._run()
        assert row is not None, "the store must have been begun"
        row = row._replace(**changes)
        self._write("UPDATE run SET config = ?, code = ?, term = ?, software = ?, digest = ?", *row, _digest(*row))
        self.commit()

    # --- what is kept -------------------------------------------------------------------------------------------

    def save(self, record: Record) -> None:
        """Save a record; on disk after the next `commit`."""
        match record:
            case StoredResult(round, trainer, counted_in, frames):
                kept = list(frames) if self._blobs is None else self._blobs.keep(frames)
                blob = msgspec.msgpack.encode(kept)
                digest = _digest(round, trainer, counted_in, blob)
                self._write("INSERT INTO results VALUES (?, ?, ?, ?, ?)", round, trainer, counted_in, blob, digest)
            case StoredTotal(round, header, blobs):
                self.save(StoredResult(round, TOTAL, round, [msgspec.msgpack.encode(header), *blobs]))
            case OpenSum():
                self._save_sum(record)
            case Close():
                blob = msgspec.msgpack.encode(record)
                (before,) = self._row("SELECT digest FROM closes WHERE round = ?", record.round - 1) or (b"",)
                digest = self._chain(before, record.round, blob)
                self._write("INSERT INTO closes VALUES (?, ?, ?, ?)", record.round, blob, before, digest)
                self._write("DELETE FROM sums")
            case Invitation():
                blob = msgspec.msgpack.encode(record)
                digest = _digest(record.round, blob)
                self._write("INSERT OR REPLACE INTO invitations VALUES (?, ?, ?)", record.round, blob, digest)
                self._write("DELETE FROM invitations WHERE round < ?", record.round - STALENESS_MAX)
            case Checkpoint(round, state):
                digest = _digest(round, state)
                self._write("INSERT OR REPLACE INTO checkpoints VALUES (?, ?, ?)", round, state, digest)
            case DropOldRounds(keep):
                self.keep_last(keep)
            case _:
                assert_never(record)

    def commit(self) -> None:
        """Return once all saved records are on disk."""
        if self._connection.in_transaction:
            self._errors.check()
            with self._errors:
                self._connection.execute("COMMIT")
            if self._commit_marker is not None:
                self._commit_marker.write(self._reached())

    def abandon(self) -> None:
        """Drop the records saved since the last `commit`, as a crash would."""
        if self._connection.in_transaction:
            with self._errors:
                self._connection.execute("ROLLBACK")

    # --- what is read -------------------------------------------------------------------------------------------

    def closes(self) -> Iterator[Close]:
        """Yield the closed rounds in order, each checked against those before it."""
        last: bytes | None = None  # None: `keep_last` may have dropped the rounds before the first
        for number, blob, before, digest in self._read("SELECT * FROM closes ORDER BY round"):
            right = before == (b"" if number == 1 else before if last is None else last)
            self._check(right and digest == self._chain(before, number, blob), f"round {number}")
            close = self._decode(blob, _CLOSE)
            self._check(close.round == number, f"round {number}")
            last = digest
            yield close

    def results(self, counted_in: int) -> Iterator[StoredResult | StoredTotal]:
        """Yield the results that the close of this round uses, by (round, trainer), or the total of a secure sum."""
        query = "SELECT * FROM results WHERE counted_in = ? ORDER BY round, trainer"
        for number, trainer, counted, blob, digest in self._read(query, counted_in):
            what = f"the result of {trainer} in round {number}"
            self._check(digest == _digest(number, trainer, counted, blob), what)
            kept = self._decode(blob, _FRAMES)
            frames = [frame if isinstance(frame, bytes) else self._blob(frame, what) for frame in kept]
            if trainer == TOTAL:
                self._check(bool(frames) and number == counted, what)
                yield StoredTotal(number, self._decode(frames[0], _TOTAL), frames[1:])
            else:
                yield StoredResult(number, trainer, counted, frames)

    def totals(self) -> Iterator[StoredTotal]:
        """Yield the totals of secure sums, newest first."""
        for (number,) in self._read("SELECT counted_in FROM results WHERE trainer = ? ORDER BY round DESC", TOTAL):
            yield from (one for one in self.results(number) if isinstance(one, StoredTotal))

    @property
    def open_sum(self) -> OpenSum | None:
        """The secure sum of the open round that may be opened; None: there is none."""
        if self._version == _WITHOUT_SUMS:
            return None
        records: list[bytes] = []
        for place, blob, digest in self._read("SELECT * FROM sums ORDER BY place"):
            self._check(digest == _digest(place, blob) and place == len(records), "the open sum")
            records.append(blob)
        if not records:
            return None
        head, *messages = records
        return msgspec.structs.replace(
            self._decode(head, _OPEN_SUM), messages=tuple(self._decode(one, _MESSAGE) for one in messages)
        )

    def invitations(self) -> Iterator[Invitation]:
        """Yield the invitations to the newest sampled rounds, in order: to those whose results may still arrive."""
        for number, blob, digest in self._read("SELECT * FROM invitations ORDER BY round"):
            self._check(digest == _digest(number, blob), f"the invitation to round {number}")
            yield self._decode(blob, _INVITATION)

    def checkpoint(self, at_most: int = 2**62) -> Checkpoint | None:
        """Return the newest checkpoint of a round up to `at_most`."""
        query = "SELECT round, state, digest FROM checkpoints WHERE round <= ? ORDER BY round DESC LIMIT 1"
        row = self._row(query, at_most)
        if row is None:
            return None
        self._check(row[2] == _digest(row[0], row[1]), f"the checkpoint of round {row[0]}")
        return Checkpoint(row[0], row[1])

    def keys_since(self, round: int) -> set[tuple[int, str]]:
        """Return the (round, trainer) of every result of `round` and later ones, of those in totals, too."""
        keys = set(self._read("SELECT round, trainer FROM results WHERE round >= ?", round))
        of_totals = {number for number, trainer in keys if trainer == TOTAL}
        newest = takewhile(lambda one: one.round >= round, self.totals() if of_totals else ())
        names = {(one.round, name) for one in newest for name in one.header.rows}
        return (keys - {(number, TOTAL) for number in of_totals}) | names

    # --- maintenance -------------------------------------------------------------------------------------------------

    def keep_last(self, rounds: int) -> int:
        """Drop the records before the last checkpoint that `rounds` closed rounds follow; return how many rounds.

        The run is continued and replayed from that checkpoint.
        """
        (last,) = next(self._read("SELECT coalesce(max(round), 0) FROM closes"))
        checkpoint = self.checkpoint(at_most=last + 1 - rounds)
        if checkpoint is None:
            return 0
        first = checkpoint.round
        (count,) = next(self._read("SELECT count(*) FROM closes WHERE round < ?", first))
        self._write("DELETE FROM results WHERE counted_in < ?", first)
        self._write("DELETE FROM closes WHERE round < ?", first)
        self._write("DELETE FROM checkpoints WHERE round < ?", first)
        self.commit()
        if self._blobs is not None and count:
            self._blobs.drop_all_but(self._named_blobs())
        return int(count)

    def shrink(self) -> None:
        """Return the space of dropped records to the disk."""
        self._claim()
        self.commit()
        with self._errors:
            self._connection.execute("VACUUM")

    def verify(self) -> list[str]:
        """Return the problems of the store, one a line; none if every row and file is as it was written."""
        problems = []
        try:
            lines = [str(line) for (line,) in self._read("PRAGMA integrity_check(10)")]
            problems += [line for line in lines if line != "ok"]
            if self.config is None:
                problems.append("it holds no run")
            _ = self.software
            last = 0
            for close in self.closes():
                for _ in self.results(close.round):
                    pass
                last = close.round
            for _ in self.results(last + 1):
                pass
            for (number,) in self._read("SELECT round FROM checkpoints"):
                self.checkpoint(number)
            for _ in self.invitations():
                pass
            _ = self.open_sum
            self._check_reached()
        except StoreDamaged as error:
            problems.append(error.what)
        return problems

    def close(self) -> None:
        """Close the file, without the records saved since the last `commit`."""
        with self._errors:
            self._connection.close()
        if self._commit_marker is not None:
            self._commit_marker.close()
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------

    def _save_sum(self, record: OpenSum) -> None:
        """Save a secure sum in place of another one, each message in a row of its own."""
        self._write("DELETE FROM sums")
        head = msgspec.msgpack.encode(msgspec.structs.replace(record, messages=()))
        for place, blob in enumerate((head, *map(msgspec.msgpack.encode, record.messages))):
            self._write("INSERT INTO sums VALUES (?, ?, ?)", place, blob, _digest(place, blob))

    def _chain(self, before: bytes, round: int, summary: bytes) -> bytes:
        """Return the digest of a close: over the one before, its summary and the digests of its results."""
        query = "SELECT digest FROM results WHERE counted_in = ? ORDER BY round, trainer"
        return _digest(before, summary, *(digest for (digest,) in self._read(query, round)))

    def _blob(self, name: list[bytes], what: str) -> bytes:
        blob = None if self._blobs is None or len(name) != 1 else self._blobs.read(name[0])
        self._check(blob is not None, f"a file of {what}")
        return blob or b""

    def _named_blobs(self) -> set[bytes]:
        kept = (self._decode(blob, _FRAMES) for (blob,) in self._read("SELECT frames FROM results"))
        return {frame[0] for frames in kept for frame in frames if not isinstance(frame, bytes)}

    def _read(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        with self._errors:
            # No `yield from`: it would close the cursor too, possibly after the connection.
            for row in self._connection.execute(query, values):  # noqa: UP028
                yield row

    def _row(self, query: str, *values: object) -> tuple[Any, ...] | None:
        with self._errors:
            row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
            return row

    def _reached(self) -> Reached:
        (term,) = self._row("SELECT term FROM run") or (0,)
        (closed,) = self._row("SELECT max(round) FROM closes") or (None,)
        if closed is None:  # no round is closed, or all were dropped before a checkpoint
            (closed,) = self._row("SELECT coalesce(max(round) - 1, 0) FROM checkpoints") or (0,)
        (results,) = self._row("SELECT count(*) FROM results WHERE counted_in > ?", closed) or (0,)
        return Reached(term, closed, results)

    def _check_reached(self) -> None:
        """Check that no acknowledged record is missing: the store covers its commit marker."""
        said = None if self._commit_marker is None else self._commit_marker.read()
        self._check(said is None or self._reached().covers(said), "the end of its write-ahead log")

    def _write(self, statement: str, *values: object) -> None:
        self._claim()
        with self._errors:
            if self._version == _WITHOUT_SUMS:
                self._version = self._make_tables()
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(statement, values)

    def _claim(self) -> None:
        """Take the lock of the only writer, until `close`."""
        if not self._is_locked and self._lock is None and self.path != ":memory:":
            self._lock = FolderLock(Path(self.path).parent)

    def _check(self, right: bool, what: str) -> None:
        if not right:
            raise StoreDamaged(self.path, f"{what} is not as it was written")

    def _decode(self, blob: bytes, decoder: msgspec.msgpack.Decoder[_T]) -> _T:
        try:
            return decoder.decode(blob)
        # A TypeError: not bytes. A ValueError: not UTF-8. A BadConfiguration: the checks of a task.
        except (*MALFORMED, TypeError, ValueError, BadConfiguration) as error:
            raise StoreDamaged(self.path, f"{error}") from error


def _prepare(path: Path) -> None:
    """Create a private file for SQLite, or make the one of this user private; a link, FIFO or device is refused.

    An existing file is not opened: closing it would release the locks that SQLite has on it in this process.
    """
    with writing_run_file(path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            os.close(open_private(path))
            return
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # SQLite refuses a folder
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
            with suppress(OSError):  # a read-only file system
                path.chmod(private_mode(status))


def _digest(*fields: object) -> bytes:
    """Return the SHA-256 of the fields of a row, each with its length, so that their borders are fixed."""
    parts: list[bytes] = []
    for field in fields:
        blob = field if isinstance(field, bytes) else str(field).encode()
        parts += (len(blob).to_bytes(8, "little"), blob)
    return sha256(b"".join(parts)).digest()
