"""Files that are there whole or not at all, whatever happens while they are written.

Knows nothing of what they hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedmq.errors import BadConfiguration

PARTIAL = ".partial"  # is put behind the name of what is being written


@contextmanager
def writing(what: object, way_out: str = "choose another") -> Iterator[None]:
    """Whatever the system refuses in here is one line: `what` cannot be written, why, and the way out.

    Raises:
        BadConfiguration: that line.
    """
    try:
        yield
    except OSError as error:
        raise BadConfiguration(f"{what}: cannot be written ({error.strerror}); {way_out}") from error


def write_whole(path: Path, content: bytes, *, mode: int = 0o666, sync: bool = True) -> None:
    """Write a file under another name, sync it, rename it, and sync its folder: it survives a power cut from now on.

    `mode` is who may read it, before the umask takes from it; no other process ever sees more. Without `sync` it
    survives a kill, and a power cut leaves what was there before, what was meant, or nothing.

    Raises:
        OSError: it cannot be written; what was at `path` before is still there, and nothing half written is left.
    """
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)  # of a crash; who may read it is unknown
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        partial.replace(path)
        if sync:
            sync_folder(path.parent)
    except OSError:
        with suppress(OSError):
            partial.unlink(missing_ok=True)  # on a full disk, its room is wanted
        raise


def sync_folder(folder: Path) -> None:
    """Put on disk which files `folder` holds."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
