"""The spool: pending results, control variates, ledgers, spent evaluations and high-water marks: they survive a kill.

A file holds a SHA-256 and then a record in msgpack; it is written under another name, synced and renamed. A corrupt
result is skipped: its round is worked on again. A corrupt number of evaluations counts as the whole budget.

Terms belong to the key of the aggregator that signed them: once the key is replaced, its marks are deleted, and its
pending results have term 0. So a stolen key does not decide which terms are old after its end.

The answer to a secure sum costs one sync, that of its ledger (`fedmq.trainer.ledger_files`). Its result is there for a
later sum; after a power cut it may be computed again.
"""

import logging
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from fedmq.algorithms.base import CONTROL
from fedmq.errors import BadConfiguration, Rejected
from fedmq.protocol import topics
from fedmq.protocol.codec import MESSAGE_BYTES_MAX, decode, encode
from fedmq.protocol.messages import Result
from fedmq.runtime.atomic_files import write_whole, writing
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.safe_files import make_private_folder, read_regular
from fedmq.secure_sums.ledger import Entry, Ledger
from fedmq.trainer.budget import Spent
from fedmq.trainer.control_sums import ControlSum
from fedmq.trainer.high_water_marks import HighWaterMark
from fedmq.trainer.ledger_files import SUFFIX as LEDGER_SUFFIX
from fedmq.trainer.ledger_files import LedgerFile
from fedmq.trainer.machine import PendingResult
from fedmq.trainer.questions import Answered

SUFFIX, SPENT_SUFFIX, SEEN_SUFFIX, CONTROL_SUFFIX = ".result", ".spent", ".seen", ".control"
ANSWERED_FILE = "rounds.answered"
SPENT_UNKNOWN = 2**53  # more than any cap
FILE_BYTES_MAX = 2 * MESSAGE_BYTES_MAX

log = logging.getLogger(__name__)


class _KeptResult(msgspec.Struct, frozen=True):
    """The content of a file of a pending result: the aggregator's key, and the frames of the Result message.

    `rows` are all rows of the trainer, of which the result may be on a part; None in files of fedmq 0.1. `question` is
    that of a secure sum.
    """

    key: str
    frames: list[bytes]
    rows: int | None = None
    question: bytes = b""


class _KeptMark(msgspec.Struct, frozen=True, array_like=True):
    """The content of a file of a high-water mark; `key` is None in files of fedmq 0.1."""

    term: int
    round: int
    key: str | None = None


class _KeptControl(msgspec.Struct, frozen=True):
    """The content of a file of a control variate: little-endian int64, and the acknowledged rounds."""

    total: bytes
    rounds: dict[int, bytes]


class Spool(Protocol):
    """Durable storage of a session. `key` is the fingerprint of the aggregator's pinned key, "" without keys."""

    key: str

    def keep(self, result: PendingResult, trainer: str) -> None:
        """Store a pending result; a plain one is durable on return."""

    def drop(self, run: str, round: int) -> None:
        """Delete a pending result."""

    def spend(self, spent: Spent) -> None:
        """Store the spent evaluations of a run; durable on return."""

    def answer(self, answered: Answered) -> None:
        """Store the counts of answered rounds; durable on return."""

    def mark(self, mark: HighWaterMark) -> None:
        """Store the high-water mark of a run; a new term is durable on return."""

    def carry(self, control: ControlSum) -> None:
        """Store the control variate of a run, durable on return; delete it if it has no rounds."""

    def record(self, run: str, entry: Entry | None) -> bool:
        """Store an entry of the ledger of a run, durable on return if it has to be; delete the ledger for None.

        Returns whether it is stored: if not, what it is about is not sent.
        """


class MemorySpool:
    """A spool in memory; in a simulation it outlives the trainer."""

    def __init__(self, key: str = "") -> None:
        self.key = key
        self.results: dict[tuple[str, int], PendingResult] = {}
        self.spent: dict[str, Spent] = {}
        self.marks: dict[str, HighWaterMark] = {}
        self.controls: dict[str, ControlSum] = {}
        self.entries: dict[str, list[Entry]] = {}  # of ledgers, by run
        self.answered = Answered()

    def keep(self, result: PendingResult, trainer: str) -> None:
        self.results[result.run, result.round] = result

    def drop(self, run: str, round: int) -> None:
        self.results.pop((run, round), None)

    def spend(self, spent: Spent) -> None:
        self.spent[spent.run] = spent

    def answer(self, answered: Answered) -> None:
        self.answered = answered

    def mark(self, mark: HighWaterMark) -> None:
        if mark.term:
            self.marks[mark.run] = mark
        else:
            self.marks.pop(mark.run, None)

    def carry(self, control: ControlSum) -> None:
        self.controls.pop(control.run, None)
        if control.rounds:
            self.controls[control.run] = control

    def record(self, run: str, entry: Entry | None) -> bool:
        entries = self.entries.pop(run, [])
        if entry is not None:
            self.entries[run] = [*entries, entry]
        return True

    def ledgers(self) -> list[tuple[str, Ledger | None]]:
        """Return the ledgers, least recently changed first."""
        return [(run, Ledger(entries)) for run, entries in self.entries.items()]


class FileSpool:
    """A folder for one trainer only: files are named by run and round.

    Raises:
        BadConfiguration: the folder cannot be created.
    """

    def __init__(self, folder: Path, key: str = "") -> None:
        self._folder, self.key = folder, key
        self._rows: int | None = None  # of the trainer, once its results are loaded
        self._ledgers: dict[str, LedgerFile] = {}
        with writing(f"--state {folder}"):
            make_private_folder(folder)

    def load(self, trainer: str, num_examples: int) -> list[PendingResult]:
        """Return the pending results of `trainer` with this number of rows, training and held-out together.

        Files that are corrupt, of another trainer or of other rows are skipped with a warning.
        """
        self._rows, found = num_examples, []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                found.append(self._read(path, trainer, num_examples))
            except (OSError, Rejected, *MALFORMED) as error:
                log.warning("%s is skipped, its round is worked on again: %s", path, error)
        return found

    def keep(self, result: PendingResult, trainer: str) -> None:
        """See `Spool`. On a full disk the result stays in memory only."""
        message = result.result(trainer, result.term)
        frames = encode(topics.UP + result.run, message, result.arrays)
        content = msgspec.msgpack.encode(_KeptResult(self.key, frames, self._rows, result.question))
        sync = not result.question or CONTROL in result.arrays
        _write(self._path(result.run, result.round), content, "the result", sync=sync)

    def drop(self, run: str, round: int) -> None:
        _remove(self._path(run, round))

    def spent(self) -> list[Spent]:
        """Return the spent evaluations, least recently changed first; of a corrupt file, the whole budget."""
        found = []
        for path in self._oldest_first(SPENT_SUFFIX):
            evaluations = SPENT_UNKNOWN
            try:
                evaluations = msgspec.msgpack.decode(_content(path), type=int)
            except (OSError, Rejected, *MALFORMED) as error:
                log.warning("%s: cannot be read (%s); all evaluations of that run count as spent", path, error)
            found.append(Spent(path.name.removesuffix(SPENT_SUFFIX), evaluations))
        return found

    def spend(self, spent: Spent) -> None:
        """See `Spool`; in memory only if the disk is full."""
        path = self._folder / f"{spent.run}{SPENT_SUFFIX}"
        if spent.evaluations:
            _write(path, msgspec.msgpack.encode(spent.evaluations), "the number of spent evaluations")
        else:
            _remove(path)

    def answered(self) -> Answered:
        """Return the counts of answered rounds.

        Raises:
            BadConfiguration: the file is corrupt, so what was answered is not known.
        """
        path = self._folder / ANSWERED_FILE
        try:
            return msgspec.msgpack.decode(_content(path), type=Answered)
        except FileNotFoundError:
            return Answered()
        except (OSError, Rejected, *MALFORMED) as error:
            raise BadConfiguration(
                f"{path}: expected the number of answered rounds, got a damaged file ({error}): "
                "delete it to begin to count anew"
            ) from error

    def answer(self, answered: Answered) -> None:
        """See `Spool`; in memory only if the disk is full."""
        _write(self._folder / ANSWERED_FILE, msgspec.msgpack.encode(answered), "the number of answered rounds")

    def marks(self) -> list[HighWaterMark]:
        """Return the high-water marks, least recently changed first, without those of corrupt files.

        Deletes those of another key of the aggregator.
        """
        found = []
        for path in self._oldest_first(SEEN_SUFFIX):
            try:
                kept = msgspec.msgpack.decode(_content(path), type=_KeptMark)
            except (OSError, Rejected, *MALFORMED) as error:
                log.warning("%s is skipped: %s", path, error)
                continue
            if kept.key in (None, self.key):
                found.append(HighWaterMark(path.name.removesuffix(SEEN_SUFFIX), kept.term, kept.round))
            else:
                log.info("%s is deleted: the aggregator has another key now", path)
                _remove(path)
        return found

    def mark(self, mark: HighWaterMark) -> None:
        """See `Spool`. Only a new term is synced: a power cut may lose the newest round, no more."""
        path = self._folder / f"{mark.run}{SEEN_SUFFIX}"
        if mark.term:
            content = msgspec.msgpack.encode(_KeptMark(mark.term, mark.round, self.key))
            _write(path, content, "the high-water mark", sync=not mark.round)
        else:
            _remove(path)

    def carry(self, control: ControlSum) -> None:
        """See `Spool`; in memory only if the disk is full."""
        path = self._folder / f"{control.run}{CONTROL_SUFFIX}"
        if control.rounds:
            assert control.total is not None
            kept = _KeptControl(control.total.astype("<i8").tobytes(), dict(control.rounds))
            _write(path, msgspec.msgpack.encode(kept), "the control variate")
        else:
            _remove(path)

    def controls(self) -> list[ControlSum]:
        """Return the control variates, least recently changed first, without those of corrupt files."""
        found = []
        for path in self._oldest_first(CONTROL_SUFFIX):
            try:
                kept = msgspec.msgpack.decode(_content(path), type=_KeptControl)
                total = np.frombuffer(kept.total, "<i8").astype(np.int64)
            except (OSError, Rejected, *MALFORMED) as error:
                log.warning("%s is skipped, the trainer begins with a control variate of 0: %s", path, error)
                continue
            found.append(ControlSum(path.name.removesuffix(CONTROL_SUFFIX), total, kept.rounds))
        return found

    def record(self, run: str, entry: Entry | None) -> bool:
        """See `Spool`."""
        file = self._ledgers.setdefault(run, LedgerFile(self._folder, run))
        if entry is None:
            _remove(self._ledgers.pop(run).path)
            return True
        try:
            file.append(entry, self.key)
        except (OSError, Rejected) as error:
            log.warning("%s: cannot be written (%s); run %s is declined until a restart", file.path, error, run)
            return False
        return True

    def ledgers(self) -> list[tuple[str, Ledger | None]]:
        """Return the ledgers of runs, least recently changed first, None for one that is damaged."""
        found: list[tuple[str, Ledger | None]] = []
        for path in self._oldest_first(LEDGER_SUFFIX):
            run = path.name.removesuffix(LEDGER_SUFFIX)
            file = self._ledgers[run] = LedgerFile(self._folder, run)
            try:
                found.append((run, file.load(self.key)))
            except (OSError, Rejected) as error:
                log.warning(
                    "%s: damaged (%s); run %s is declined, as its questions may have been answered: delete the file "
                    "only after the run",
                    path,
                    error,
                    run,
                )
                found.append((run, None))
        return found

    def _read(self, path: Path, trainer: str, num_examples: int) -> PendingResult:
        kept = msgspec.msgpack.decode(_content(path), type=_KeptResult)
        packet = decode(kept.frames)
        message = packet.message
        if not isinstance(message, Result) or message.trainer != trainer:
            raise Rejected("names", f"expected a result of {trainer}")
        rows = message.num_examples if kept.rows is None else kept.rows
        if rows != num_examples:
            raise Rejected("values", f"expected a result of a trainer with {num_examples} rows, got {rows}")
        of_message = [name for name in PendingResult._fields if name not in ("arrays", "question")]
        fields = {name: getattr(message, name) for name in of_message}
        fields["metrics"] = fields["metrics"] or {}
        result = PendingResult(arrays=dict(packet.arrays), question=kept.question, **fields)
        return result if kept.key == self.key else result._replace(term=0)

    def _oldest_first(self, suffix: str) -> list[Path]:
        return sorted(self._folder.glob(f"*{suffix}"), key=lambda path: path.stat().st_mtime_ns)

    def _path(self, run: str, round: int) -> Path:
        return self._folder / f"{run}.{round}{SUFFIX}"


def _write(path: Path, content: bytes, what: str, *, sync: bool = True) -> None:
    try:
        write_whole(path, sha256(content).digest() + content, sync=sync)
    except OSError as error:
        log.warning("%s: cannot be written (%s); %s is in memory only", path, error.strerror, what)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s: cannot be removed: %s", path, error.strerror)


def _content(path: Path) -> bytes:
    content = read_regular(path, FILE_BYTES_MAX)
    if sha256(content[32:]).digest() != content[:32]:
        raise Rejected("sha256", "the content does not match its SHA-256")
    return content[32:]
