"""The spool: results that were computed and not acknowledged, as files, so that a killed trainer sends them again.

And how many evaluations of each run are spent, and how far it has come. Knows nothing of when anything is kept or
dropped; `session` does. A file is written under another name, synced and renamed; it holds a SHA-256 and the frames of
the Result message, or the numbers. A damaged result is left out: its round is only worked on again. A damaged number of
evaluations counts as all that there was.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec

from fedmq.errors import Rejected
from fedmq.protocol import topics
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Result
from fedmq.runtime.atomic_files import write_whole, writing
from fedmq.trainer.budget import Spent
from fedmq.trainer.high_water_marks import HighWaterMark
from fedmq.trainer.pending_result import PendingResult

SUFFIX, SPENT_SUFFIX, SEEN_SUFFIX = ".result", ".spent", ".seen"
SPENT_UNKNOWN = 2**53  # more than any cap

log = logging.getLogger(__name__)


class Spool(Protocol):
    """Where a trainer's results outlive it."""

    def keep(self, kept: PendingResult, trainer: str, num_examples: int) -> None:
        """Write a result; it is safe when this returns."""
        ...

    def drop(self, run: str, round: int) -> None:
        """Forget a result."""
        ...

    def spend(self, spent: Spent) -> None:
        """Write how many evaluations of a run are spent; it is safe when this returns."""
        ...

    def mark(self, mark: HighWaterMark) -> None:
        """Write how far a run has come; a new term is safe when this returns."""
        ...


class MemorySpool:
    """A spool that outlives a trainer of a simulation, or nothing at all."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], PendingResult] = {}
        self.spent: dict[str, Spent] = {}
        self.marks: dict[str, HighWaterMark] = {}

    def keep(self, kept: PendingResult, trainer: str, num_examples: int) -> None:
        self.kept[kept.run, kept.round] = kept

    def drop(self, run: str, round: int) -> None:
        self.kept.pop((run, round), None)

    def spend(self, spent: Spent) -> None:
        self.spent[spent.run] = spent

    def mark(self, mark: HighWaterMark) -> None:
        if mark.term:
            self.marks[mark.run] = mark
        else:
            self.marks.pop(mark.run, None)


class FileSpool:
    """A folder of one trainer's results, and of no other's: files are named by run and round.

    Raises:
        BadConfiguration: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(f"--state {folder}"):
            folder.mkdir(parents=True, exist_ok=True)

    def load(self, trainer: str, num_examples: int) -> list[PendingResult]:
        """What an earlier life of `trainer` kept, when it had as many rows.

        Files that are damaged, another's, or of other rows are left out, with a line.
        """
        found = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                found.append(_read(path, trainer, num_examples))
            except (OSError, Rejected, msgspec.MsgspecError) as error:
                log.warning("%s is left out, its round is worked on again: %s", path, error)
        return found

    def keep(self, kept: PendingResult, trainer: str, num_examples: int) -> None:
        """Write a result; on disk when this returns. A disk that is full costs the file, not the result."""
        message = kept.result(trainer, num_examples, kept.term)
        content = msgspec.msgpack.encode(encode(topics.up_to(kept.run), message, kept.arrays))
        _write(self._path(kept.run, kept.round), content, "the result")

    def drop(self, run: str, round: int) -> None:
        """Forget a result."""
        _remove(self._path(run, round))

    def spent(self) -> list[Spent]:
        """What earlier lives spent. The file that is longest unchanged comes first; of a damaged one, all is spent."""
        paths = sorted(self._folder.glob(f"*{SPENT_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        return [_read_spent(path) for path in paths]

    def spend(self, spent: Spent) -> None:
        """Write how many evaluations of a run are spent; on disk when this returns, unless the disk is full."""
        path = self._folder / f"{spent.run}{SPENT_SUFFIX}"
        if spent.evaluations:
            _write(path, msgspec.msgpack.encode(spent.evaluations), "what was spent")
        else:
            _remove(path)

    def marks(self) -> list[HighWaterMark]:
        """How far runs had come, the one that is longest unchanged first. A damaged file is as if there were none."""
        paths = sorted(self._folder.glob(f"*{SEEN_SUFFIX}"), key=lambda path: path.stat().st_mtime_ns)
        return [mark for mark in map(_read_mark, paths) if mark is not None]

    def mark(self, mark: HighWaterMark) -> None:
        """Write how far a run has come. Synced for a new term; a power cut may cost the newest round, no more."""
        path = self._folder / f"{mark.run}{SEEN_SUFFIX}"
        if mark.term:
            content = msgspec.msgpack.encode((mark.term, mark.round))
            _write(path, content, "how far the run has come", sync=not mark.round)
        else:
            _remove(path)

    def _path(self, run: str, round: int) -> Path:
        return self._folder / f"{run}.{round}{SUFFIX}"


def _write(path: Path, content: bytes, what: str, *, sync: bool = True) -> None:
    try:
        write_whole(path, sha256(content).digest() + content, sync=sync)
    except OSError as error:
        log.warning("%s cannot be written (%s); %s is in memory only", path, error.strerror, what)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s cannot be removed: %s", path, error.strerror)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if sha256(content[32:]).digest() != content[:32]:
        raise Rejected("sha256", "it is not as it was written")
    return content[32:]


def _read_spent(path: Path) -> Spent:
    run = path.name.removesuffix(SPENT_SUFFIX)
    try:
        return Spent(run, msgspec.msgpack.decode(_content(path), type=int))
    except (OSError, Rejected, msgspec.MsgspecError) as error:
        log.warning("%s cannot be read, as if all evaluations of that run were spent: %s", path, error)
        return Spent(run, SPENT_UNKNOWN)


def _read_mark(path: Path) -> HighWaterMark | None:
    try:
        term, number = msgspec.msgpack.decode(_content(path), type=tuple[int, int])
    except (OSError, Rejected, msgspec.MsgspecError) as error:
        log.warning("%s is left out: %s", path, error)
        return None
    return HighWaterMark(path.name.removesuffix(SEEN_SUFFIX), term, number)


def _read(path: Path, trainer: str, num_examples: int) -> PendingResult:
    packet = decode(msgspec.msgpack.decode(_content(path), type=list[bytes]))
    message = packet.message
    if not isinstance(message, Result) or message.trainer != trainer:
        raise Rejected("names", f"it is not a result of {trainer}")
    if message.num_examples != num_examples:
        raise Rejected("values", f"it is about {message.num_examples} rows, now there are {num_examples}")
    arrays = dict(packet.arrays)
    return PendingResult(
        message.run, message.term, message.round, arrays, message.train_s, message.model_digest, message.fraction_bits
    )
