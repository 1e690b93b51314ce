"""The spool: results that were computed and not acknowledged, as files, so that a killed trainer sends them again.

Knows nothing of when anything is kept or dropped; `session` does. A file is written under another name, synced and
renamed; it holds a SHA-256 and the frames of the Result message. One that is damaged is left out: its round is only
worked on again.
"""

from __future__ import annotations

import logging
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import msgspec

from fedmq import topics
from fedmq.errors import BadConfiguration, Rejected
from fedmq.files import write_whole
from fedmq.messages import Result
from fedmq.wire import decode, encode
from trainer.session import Kept

SUFFIX = ".result"

log = logging.getLogger(__name__)


class Spool(Protocol):
    """Where a trainer's results outlive it."""

    def keep(self, kept: Kept, trainer: str, samples: int) -> None:
        """Write a result; it is safe when this returns."""
        ...

    def drop(self, run: str, round: int) -> None:
        """Forget a result."""
        ...


class MemorySpool:
    """A spool that outlives a trainer of a simulation, or nothing at all."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], Kept] = {}

    def keep(self, kept: Kept, trainer: str, samples: int) -> None:
        """See `Spool`."""
        self.kept[kept.run, kept.round] = kept

    def drop(self, run: str, round: int) -> None:
        """See `Spool`."""
        self.kept.pop((run, round), None)


class FileSpool:
    """A folder of one trainer's results, and of no other's: files are named by run and round.

    Raises:
        BadConfiguration: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadConfiguration(f"--state {folder}: cannot be made ({error.strerror}); choose another") from error

    def load(self, trainer: str, samples: int) -> list[Kept]:
        """What an earlier life of `trainer` kept, when it had as many rows.

        Files that are damaged, another's, or of other rows are left out, with a line.
        """
        found = []
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            try:
                found.append(_read(path, trainer, samples))
            except (OSError, Rejected, msgspec.MsgspecError) as error:
                log.warning("%s is left out, its round is worked on again: %s", path, error)
        return found

    def keep(self, kept: Kept, trainer: str, samples: int) -> None:
        """Write a result; on disk when this returns. A disk that is full costs the file, not the result."""
        message = Result(
            run=kept.run,
            epoch=kept.epoch,
            trainer=trainer,
            round=kept.round,
            samples=samples,
            attempt=1,
            train_s=kept.train_s,
        )
        content = msgspec.msgpack.encode(encode(topics.up_to(kept.run), message, kept.arrays))
        path = self._path(kept.run, kept.round)
        try:
            write_whole(path, sha256(content).digest() + content)
        except OSError as error:
            log.warning("%s cannot be written (%s); the result is in memory only", path, error.strerror)

    def drop(self, run: str, round: int) -> None:
        """Forget a result."""
        try:
            self._path(run, round).unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be removed: %s", self._path(run, round), error.strerror)

    def _path(self, run: str, round: int) -> Path:
        return self._folder / f"{run}.{round}{SUFFIX}"


def _read(path: Path, trainer: str, samples: int) -> Kept:
    content = path.read_bytes()
    if sha256(content[32:]).digest() != content[:32]:
        raise Rejected("sha256", "it is not as it was written")
    packet = decode(msgspec.msgpack.decode(content[32:], type=list[bytes]))
    message = packet.message
    if not isinstance(message, Result) or message.trainer != trainer:
        raise Rejected("names", f"it is not a result of {trainer}")
    if message.samples != samples:
        raise Rejected("values", f"it is about {message.samples} rows, now there are {samples}")
    return Kept(message.run, message.epoch, message.round, dict(packet.arrays), message.train_s)
