"""Limits of a trainer's data, which are checked before the data is parsed, and files with a limit."""

import gzip
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from fedmq.errors import BadData
from fedmq.models.arrays import UNREADABLE
from fedmq.runtime.safe_files import open_regular

BYTES_MAX = 2 << 30  # of a file, and of a compressed one when decompressed
VALUES_MAX = 50_000_000  # numbers and texts of a table, including targets
COLUMNS_MAX = 65_536
LINE_CHARACTERS_MAX = 1 << 22
_CHUNK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_DAMAGED: tuple[type[Exception], ...] = (gzip.BadGzipFile, *UNREADABLE)


def check_values(count: int, source: Path | str) -> None:
    """Check the number of values of a table.

    Raises:
        BadData: there are more than VALUES_MAX.
    """
    if count > VALUES_MAX:
        raise BadData(f"{source}: expected at most {VALUES_MAX} values, got {count}: give a trainer fewer rows")


def check_columns(count: int, source: Path | str) -> None:
    """Check the number of columns of a table.

    Raises:
        BadData: there are more than COLUMNS_MAX.
    """
    if count > COLUMNS_MAX:
        raise BadData(f"{source}: expected at most {COLUMNS_MAX} columns, got {count}: leave columns out")


def check_bytes(count: int, source: Path | str) -> None:
    """Check the size of a file.

    Raises:
        BadData: it has more than BYTES_MAX bytes.
    """
    if count > BYTES_MAX:
        raise BadData(f"{source}: expected at most {BYTES_MAX} bytes, got {count}: give a trainer fewer rows")


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file of at most BYTES_MAX bytes; what fails while it is read is said with its name.

    Raises:
        BadData: it is missing, not a regular file, too large, damaged, or of another format than its name says.
    """
    try:
        with open_regular(path) as file:
            check_bytes(file.seek(0, io.SEEK_END), path)
            file.seek(0)
            yield file
    except FileNotFoundError as error:
        raise BadData(f"{path}: expected a file with rows, got no such file: check the path") from error
    except _DAMAGED as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadData(
            f"{path}: expected {path.suffix.lower()}, got a damaged or foreign file ({reason:.120}): save it again"
        ) from error
    except OSError as error:
        raise BadData(f"{path}: expected a file that can be read, got: {error.strerror or error}") from error


def decompressed(file: BinaryIO, path: Path) -> BinaryIO:
    """Return a file from its start, decompressed if it is one of gzip, and limited to BYTES_MAX.

    Closing what is returned does not close the file.
    """
    file.seek(0)
    compressed = file.read(len(_GZIP)) == _GZIP
    file.seek(0)
    return io.BufferedReader(
        _Limited(gzip.GzipFile(fileobj=file).read if compressed else file.read, path), _CHUNK_BYTES
    )


class _Limited(io.RawIOBase):
    """The bytes of a file, at most BYTES_MAX.

    Raises:
        BadData: there are more. EOFError, zlib.error: a compressed file is damaged.
    """

    def __init__(self, read: Callable[[int], bytes], path: Path) -> None:
        self._read, self._path, self._count = read, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        chunk = self._read(len(buffer))
        self._count += len(chunk)
        if self._count > BYTES_MAX:
            raise BadData(
                f"{self._path}: expected at most {BYTES_MAX} bytes when decompressed, got more: "
                "give a trainer fewer rows"
            )
        buffer[: len(chunk)] = chunk
        return len(chunk)
