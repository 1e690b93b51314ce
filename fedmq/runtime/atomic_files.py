"""Atomic writes: a file is whole or absent, whatever happens while it is written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedmq.errors import BadConfiguration
from fedmq.runtime.safe_files import PRIVATE_FILE

PARTIAL = ".partial"  # suffix of a file that is being written
_DEVICES = Path("/dev")
SHARED_FILE = 0o666  # mode, less the umask


@contextmanager
def writing(what: object, way_out: str = "choose another") -> Iterator[None]:
    """Translate an OSError into a BadConfiguration, in one line: `what` cannot be written, why, and the way out."""
    try:
        yield
    except OSError as error:
        raise BadConfiguration(f"{what}: cannot be written ({error.strerror}); {way_out}") from error


def write_whole(path: Path, content: bytes, *, mode: int = PRIVATE_FILE, sync: bool = True) -> None:
    """Write a file under another name, sync it, rename it, and sync its folder: it survives a power cut.

    `mode` holds its permissions from the start, less the umask. A link is replaced, not followed. Without
    `sync` the file survives a killed process; a power cut leaves the old file, the new one, or none.

    Raises:
        OSError: it cannot be written, or leads to a device, pipe or socket, which the rename would remove. The old file
            stays, and no partial file.
    """
    if path.parent.resolve() == _DEVICES or (path.exists() and not (path.is_file() or path.is_dir())):
        raise OSError(errno.EINVAL, "it is a device, a pipe or a socket, not a file", str(path))
    partial = path.with_name(path.name + PARTIAL)
    try:
        partial.unlink(missing_ok=True)  # left by a crash, with unknown permissions
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
            partial.unlink(missing_ok=True)  # to free its space on a full disk
        raise


def sync_folder(folder: Path) -> None:
    """Sync the directory entries of `folder`."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
