"""Checks of this machine: Python, libzmq, limits, the clock, folders, keys and rows. Knows nothing of the network."""

from __future__ import annotations

import ctypes
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from fedmq import __version__
from fedmq.deploy.check_result import Finding, broken, fine, odd
from fedmq.errors import BadConfiguration
from fedmq.security.keyring import KEY_SUFFIX, Credentials, read_credentials, read_federation
from fedmq.security.keys import Role
from fedmq.transport.zeromq import library

PYTHON_MIN = (3, 11)
LIBZMQ_MIN = (4, 3)
FILES_MIN, FILES_WANTED = 256, 4096  # a broker takes two for each trainer
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronised
TIMEX_BYTES = 1024  # more than struct timex has anywhere
SECRET_ROLES: tuple[Role, ...] = ("trainer", "observer", "aggregator", "broker")


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> Finding:
    """Whether Python is new enough."""
    found = f"Python {'.'.join(map(str, version))}, fedmq {__version__}, {platform.system()} {platform.machine()}"
    if version < PYTHON_MIN:
        return broken("python", found, "fedmq needs Python 3.11 or newer: install it, and fedmq into it")
    return fine("python", found)


def check_libzmq(known: Callable[[], tuple[str, bool]] = library) -> Finding:
    """Whether libzmq is new enough, and can encrypt."""
    version, encrypts = known()
    found = f"libzmq {version}"
    if tuple(map(int, version.split(".")[:2])) < LIBZMQ_MIN:
        return broken("libzmq", found, "expected 4.3 or newer: pip install --upgrade pyzmq")
    if not encrypts:
        return odd("libzmq", f"{found} without CURVE", "it cannot use keys: pip install --force-reinstall pyzmq")
    return fine("libzmq", found)


def check_files_limit(limit: int | None = None) -> Finding:
    """Whether the process may have enough files and connections open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    found = f"{limit} files and connections may be open"
    advice = f"ulimit -n {FILES_WANTED * 4} before fedmq broker; LimitNOFILE= in a unit (that of fedmq has it)"
    if limit < FILES_MIN:
        return broken("files", found, advice)
    if limit < FILES_WANTED:
        return odd("files", f"{found}: enough for about {limit // 2} trainers at a broker here", advice)
    return fine("files", found)


def adjtimex() -> int:
    """The state of the kernel's clock, or -1 when it does not say; see adjtimex(2)."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))


def check_clock(state: Callable[[], int] = adjtimex) -> Finding:
    """Whether the clock is synchronised; no other machine's is looked at, and no training depends on it."""
    found = state()
    if found < 0:
        return odd("clock", "the kernel does not say whether it is right", "compare `date -u` with another machine's")
    if found == TIME_ERROR:
        return odd(
            "clock",
            "not synchronised: times in logs and reports may be off; training does not depend on them",
            "apt install systemd-timesyncd, or: timedatectl set-ntp true",
        )
    return fine("clock", "synchronised")


def check_folder(folder: Path) -> Finding:
    """Whether a run or a trainer can write there."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        return broken(
            "folder",
            f"{folder.absolute()}: cannot be written ({error.strerror})",
            "start where you may write, or choose a folder with --out (aggregator) and --state (trainer)",
        )
    return fine("folder", f"{folder.absolute()} can be written")


def check_keys(folder: Path) -> tuple[Finding, Credentials | None]:
    """Whether the keys can be used, and who we are with them; the broker's own key cannot connect anywhere."""
    member = None
    try:
        federation = read_federation(folder)
        roles = [role for role in SECRET_ROLES if (folder / f"{role}{KEY_SUFFIX}").is_file()]
        for role in roles:
            credentials = read_credentials(folder, role)
            member = member or (credentials if role != "broker" else None)
    except BadConfiguration as error:
        return broken("keys", str(error), "mend what it says, or join anew: fedmq trainer join TOKEN"), None
    if not roles:
        return broken("keys", f"{folder}: a federation, but no secret key", "fedmq trainer join TOKEN makes one"), None
    return fine("keys", f"{folder}: keys of {', '.join(roles)} for the broker at {federation.broker}"), member


def check_data(spec: str) -> Finding:
    """Whether the rows of a trainer can be used."""
    from fedmq.data.readers import load_rows

    try:
        rows = load_rows(spec)
    except BadConfiguration as error:
        return broken("data", str(error), "the line above says what; the page your-own-data has all that --data takes")
    return fine("data", f"{spec}: {len(rows.inputs)} rows, {rows.inputs.shape[1]} inputs")
