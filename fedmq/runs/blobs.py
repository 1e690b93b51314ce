"""Frames that are too large for a row: files named by their SHA-256, on disk before a row names them."""

from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

from fedmq.protocol.codec import Frames
from fedmq.runtime.atomic_files import sync_folder, write_whole
from fedmq.runtime.run_folder import writing_run_file
from fedmq.runtime.safe_files import make_private_folder, read_regular

BLOB_BYTES = 1 << 20  # larger frames are files
BLOB_BYTES_MAX = 1 << 30  # as of a row in SQLite


class Blobs:
    """A folder of blobs, created with the first one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, frames: Frames) -> list[bytes | list[bytes]]:
        """Return the frames, with a list of one SHA-256 in place of each frame that is a file now.

        Raises:
            StoreError: a file cannot be written.
        """
        return [[self._write(frame)] if len(frame) > BLOB_BYTES else frame for frame in frames]

    def read(self, name: bytes) -> bytes | None:
        """Return the blob of that SHA-256, or None if it is missing or changed."""
        try:
            blob = read_regular(self._folder / name.hex(), BLOB_BYTES_MAX)
        except OSError:
            return None
        return blob if sha256(blob).digest() == name else None

    def drop_all_but(self, names: Collection[bytes]) -> None:
        """Remove all other files, partial ones of a crash too."""
        kept = {name.hex() for name in names}
        for path in self._folder.glob("*"):
            if path.name not in kept:
                path.unlink()

    def _write(self, blob: bytes) -> bytes:
        name = sha256(blob).digest()
        path = self._folder / name.hex()
        with writing_run_file(path):
            if path.exists() and self.read(name) is not None:
                return name
            if not self._folder.exists():
                make_private_folder(self._folder)
                sync_folder(self._folder.parent)
            write_whole(path, blob)
        return name
