"""The ledgers of secure sums as files: an append-only journal for each run, so that a round costs one sync, not three.

A record has its length (4 bytes, big-endian), a check of that length, the SHA-256 of its content, and the content in
msgpack. A kill or a power cut may leave an incomplete record at the end, or zeros, of an entry that need not last: it
is dropped. Any other damage makes the ledger unusable: what it would have refused is not known. A long journal is
written anew, without entries that were replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec.structs import replace

from fedmq.errors import Rejected
from fedmq.protocol.codec import FRAME_BYTES_MAX
from fedmq.protocol.messages import Digest
from fedmq.runtime.atomic_files import sync_folder, write_whole
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.safe_files import open_private, read_regular
from fedmq.secure_sums.ledger import QUESTIONS_MAX, Entry, Ledger

SUFFIX = ".ledger"
FILE_BYTES_MAX = 8 * FRAME_BYTES_MAX
GROWN_BYTES = 16 << 20  # a journal that has grown by more, and has doubled, is written anew
_LENGTH_BYTES, _CHECK_BYTES, _HASH_BYTES = 4, 4, 32


class KeptEntry(msgspec.Struct, frozen=True, array_like=True):
    """The content of a record: the key of the aggregator, as in `Spool`, an entry, and what was spent before it."""

    key: str
    entry: Entry
    spent: list[Digest] = []


class LedgerFile:
    """The journal of one run in a folder of this user."""

    def __init__(self, folder: Path, run: str) -> None:
        self.path = folder / f"{run}{SUFFIX}"
        self._size, self._size_max = 0, GROWN_BYTES

    def load(self, key: str) -> Ledger:
        """Return the ledger; sums of another key of the aggregator have no order any more.

        Raises:
            OSError, Rejected: it cannot be read, or is damaged.
        """
        content = read_regular(self.path, FILE_BYTES_MAX)
        ledger, end = Ledger(), 0
        for kept, end in records_of(content):  # noqa: B007  # the last end is used below
            if len(ledger.spent) + len(kept.spent) > QUESTIONS_MAX:
                raise Rejected("values", f"expected at most {QUESTIONS_MAX} questions")
            ledger.spent.update(kept.spent)
            ledger.record(kept.entry if kept.key == key else replace(kept.entry, order=(0, 0)))
        if end < len(content):
            os.truncate(self.path, end)
        self._size = end
        return ledger

    def append(self, entry: Entry, key: str) -> None:
        """Append an entry; it is durable on return if it has to be.

        Raises:
            OSError, Rejected: it cannot be written, or the journal is damaged.
        """
        record = _record(KeptEntry(key, entry))
        is_new, descriptor = not self._size, open_private(self.path, append=True)
        with os.fdopen(descriptor, "ab") as file:
            file.write(record)
            file.flush()
            if entry.is_durable:
                os.fsync(file.fileno())
        if is_new:
            sync_folder(self.path.parent)
        self._size += len(record)
        if self._size > self._size_max:
            self._rewrite(key)

    def _rewrite(self, key: str) -> None:
        """Write one record that has all that counts."""
        ledger = self.load(key)
        assert ledger.last is not None
        content = _record(KeptEntry(key, ledger.last, sorted(ledger.spent)))
        write_whole(self.path, content)
        self._size, self._size_max = len(content), 2 * len(content) + GROWN_BYTES


def records_of(content: bytes) -> Iterator[tuple[KeptEntry, int]]:
    """Yield the records of a journal in order, each with the place where it ends; an incomplete one at the end is none.

    Raises:
        Rejected: the journal is damaged.
    """
    end = 0
    while (head := end + _LENGTH_BYTES + _CHECK_BYTES) <= len(content) and any(content[end:]):
        length, start = content[end : end + _LENGTH_BYTES], head + _HASH_BYTES
        if _check(length) != content[end + _LENGTH_BYTES : head]:
            raise Rejected("header", "the length of a record does not match its check")
        end = start + int.from_bytes(length, "big")
        if end > len(content):
            return
        record = content[start:end]
        if sha256(record).digest() != content[head:start]:
            raise Rejected("sha256", "a record does not match its SHA-256")
        yield _decoded(record), end


def _record(kept: KeptEntry) -> bytes:
    content = msgspec.msgpack.encode(kept)
    length = len(content).to_bytes(_LENGTH_BYTES, "big")
    return length + _check(length) + sha256(content).digest() + content


def _check(length: bytes) -> bytes:
    return sha256(length).digest()[:_CHECK_BYTES]


def _decoded(record: bytes) -> KeptEntry:
    try:
        return msgspec.msgpack.decode(record, type=KeptEntry)
    except MALFORMED as error:
        raise Rejected("header", f"a record is malformed: {error}") from error
