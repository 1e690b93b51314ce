"""Safe access to files that another user may have prepared, and private files.

- What is read is a regular file: a FIFO or a device never blocks the process. Its size is checked first.
- What is written has mode 0600 in folders of mode 0700, whatever the umask; no link is followed.
- Files that name the trusted keys are writable by this user and root only.
"""

import errno
import os
import pwd
import stat
from pathlib import Path
from typing import BinaryIO

from fedmq.errors import BadConfiguration

PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700  # modes
ROOT = 0
_OTHERS, _OTHERS_WRITE = 0o077, 0o022


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, of any owner, to read; links are followed.

    Raises:
        OSError: it cannot be opened, or is a FIFO, a device, a socket or a folder.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)  # a FIFO would wait
    try:
        _check_regular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except OSError:
        os.close(descriptor)
        raise


def read_regular(path: Path, bytes_max: int) -> bytes:
    """Read a regular file of at most `bytes_max` bytes; links are followed.

    Raises:
        OSError: as `open_regular`; or the file is larger, and is not read.
    """
    with open_regular(path) as file:
        return read_limited(file, path, bytes_max)


def read_limited(file: BinaryIO, path: Path, bytes_max: int) -> bytes:
    """Read the rest of an open file of at most `bytes_max` bytes.

    Raises:
        OSError: the file is larger, and is not read; or it grows.
    """
    size = os.fstat(file.fileno()).st_size
    if size > bytes_max:
        raise OSError(errno.EFBIG, f"it has more than {bytes_max} bytes", str(path))
    content = file.read(size + 1)
    if len(content) > size:
        raise OSError(errno.EBUSY, "it grows while it is read", str(path))
    return content


def open_private(path: Path, *, append: bool = False) -> int:
    """Open a file of this user to read and write, or create it; return its descriptor. No other user can read it then.

    Raises:
        OSError: it cannot be opened, is a link or no regular file, or belongs to another user.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | (os.O_APPEND if append else 0), PRIVATE_FILE)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise OSError(errno.ELOOP, "it is a symbolic link", str(path)) from error
        raise
    try:
        status = os.fstat(descriptor)
        _check_regular(path, status)
        if status.st_uid != os.geteuid():
            raise OSError(errno.EPERM, f"it belongs to {_user(status.st_uid)}", str(path))
        os.fchmod(descriptor, private_mode(status))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def private_mode(status: os.stat_result) -> int:
    """Return the mode of a file without the permissions of other users."""
    return stat.S_IMODE(status.st_mode) & ~_OTHERS


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents with mode 0700; an existing folder stays as it is.

    Raises:
        OSError: it cannot be created.
    """
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)


def check_trusted(path: Path, status: os.stat_result) -> None:
    """Check that only this user and root can change the file or folder; `status` is that of what was opened.

    A folder of root with the sticky bit is accepted: others can add files to it, but those are their own.

    Raises:
        BadConfiguration: it belongs to another user, or others can write to it.
    """
    user = os.geteuid()
    if status.st_uid not in (user, ROOT):
        owners = _user(user) + (" or root" if user != ROOT else "")
        raise BadConfiguration(
            f"{path}: expected the owner {owners}, got {_user(status.st_uid)}, who could change it: run this command "
            f"as the owner, or chown {user} {path}"
        )
    sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX and status.st_uid == ROOT
    if status.st_mode & _OTHERS_WRITE and not sticky:
        raise BadConfiguration(
            f"{path}: expected a mode that lets only its owner write, got {stat.S_IMODE(status.st_mode):04o}: other "
            f"users can change it; chmod go-w {path}"
        )


def check_secret(path: Path, status: os.stat_result) -> None:
    """Check that no other user can read or change a file with a secret; `status` is that of the opened file.

    As for PostgreSQL's keys, a service's group may read a file of root.

    Raises:
        BadConfiguration: it belongs to another user, or others can read it.
    """
    for_group = stat.S_IRGRP if status.st_uid == ROOT != os.geteuid() else 0
    if status.st_mode & _OTHERS & ~for_group:
        raise BadConfiguration(
            f"{path}: expected mode 0600, got {stat.S_IMODE(status.st_mode):04o}: other users can read it; "
            f"chmod 600 {path}"
        )
    check_trusted(path, status)


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def _user(number: int) -> str:
    """Return a text such as `user alice`."""
    try:
        return f"user {pwd.getpwuid(number).pw_name}"
    except KeyError:  # as in a container
        return f"user {number}"
