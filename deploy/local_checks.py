"""Checks of this machine: Python, libzmq, limits, the clock, folders, keys and rows."""

import ctypes
import platform
import resource
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from fedmq import __version__
from fedmq.errors import BadConfiguration
from fedmq.security.keyring import KEY_SUFFIX, Credentials, read_credentials, read_federation
from fedmq.security.keys import Role
from fedmq.transport.zeromq import library

PYTHON_MIN = (3, 11)
LIBZMQ_MIN = (4, 3)
FILES_MIN, FILES_WANTED = 256, 4096  # a broker opens two for each trainer
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
TIMEX_BYTES = 1024  # more than struct timex has anywhere
SECRET_ROLES: tuple[Role, ...] = ("trainer", "observer", "aggregator", "broker")


class CheckResult(msgspec.Struct, frozen=True):
    """The result of one check; `advice` is "" when there is nothing to do."""

    state: Literal["ok", "warning", "problem"]
    check: str
    found: str
    advice: str = ""


ok = partial(CheckResult, "ok")
warning = partial(CheckResult, "warning")  # it works, but not always or not for all
problem = partial(CheckResult, "problem")


def check_python(version: tuple[int, ...] = sys.version_info[:3]) -> CheckResult:
    """Check the version of Python."""
    found = f"Python {'.'.join(map(str, version))}, fedmq {__version__}, {platform.system()} {platform.machine()}"
    if version < PYTHON_MIN:
        return problem("python", found, "fedmq needs Python 3.11 or newer: install it, and fedmq into it")
    return ok("python", found)


def check_libzmq(known: Callable[[], tuple[str, bool]] = library) -> CheckResult:
    """Check the version of libzmq, and that it supports CURVE."""
    version, encrypts = known()
    found = f"libzmq {version}"
    if tuple(map(int, version.split(".")[:2])) < LIBZMQ_MIN:
        return problem("libzmq", found, "expected 4.3 or newer: pip install --upgrade pyzmq")
    if not encrypts:
        return warning("libzmq", f"{found} without CURVE", "it cannot use keys: pip install --force-reinstall pyzmq")
    return ok("libzmq", found)


def check_files_limit(limit: int | None = None) -> CheckResult:
    """Check the limit of open files and connections."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if limit is None else limit
    found = f"the limit of open files and connections is {limit}"
    advice = f"ulimit -n {FILES_WANTED * 4} before fedmq broker; LimitNOFILE= in a unit (those of fedmq set it)"
    if limit < FILES_MIN:
        return problem("files", found, advice)
    if limit < FILES_WANTED:
        return warning("files", f"{found}: enough for about {limit // 2} trainers at a broker on this machine", advice)
    return ok("files", found)


def adjtimex() -> int:
    """Return the state of the kernel's clock, -1 if unknown; see adjtimex(2)."""
    return int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)))


def check_clock(state: Callable[[], int] = adjtimex) -> CheckResult:
    """Check that the clock is synchronized; training does not depend on it."""
    found = state()
    if found < 0:
        unknown = "the kernel does not report whether the clock is synchronized"
        return warning("clock", unknown, "compare `date -u` with another machine's")
    if found == TIME_ERROR:
        wrong = "not synchronized: times in logs and reports may be off; training does not depend on them"
        return warning("clock", wrong, "apt install systemd-timesyncd, or: timedatectl set-ntp true")
    return ok("clock", "synchronized")


def check_folder(folder: Path) -> CheckResult:
    """Check that a run or a trainer can write to the folder."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        advice = "start in a writable folder, or choose a folder with --out (aggregator) and --state (trainer)"
        return problem("folder", f"{folder.absolute()}: not writable ({error.strerror})", advice)
    return ok("folder", f"{folder.absolute()} is writable")


def check_keys(folder: Path) -> tuple[CheckResult, Credentials | None]:
    """Check the keys; also return the credentials to connect with, None if there is only the broker's own key."""
    member = None
    try:
        federation = read_federation(folder)
        roles = [role for role in SECRET_ROLES if (folder / f"{role}{KEY_SUFFIX}").is_file()]
        for role in roles:
            credentials = read_credentials(folder, role)
            member = member or (credentials if role != "broker" else None)
    except BadConfiguration as error:
        return problem("keys", str(error), "repair the file, or join again: fedmq trainer join"), None
    if not roles:
        found = f"{folder}: a federation, but no secret key"
        return problem("keys", found, "create one: fedmq trainer join"), None
    return ok("keys", f"{folder}: keys of {', '.join(roles)} for the broker at {federation.broker}"), member


def check_data(spec: str) -> CheckResult:
    """Check that a trainer can read this data."""
    from fedmq.data.readers import load_data
    from fedmq.tables.table import Table

    try:
        found = load_data(spec)
        if isinstance(found, Table):
            found.check()
    except BadConfiguration as error:
        return problem("data", str(error), "fix the file; the page your-own-data lists all forms of --data")
    if isinstance(found, Table):
        return ok("data", f"{spec}: {found.num_rows} rows, {len(found.names)} columns")
    return ok("data", f"{spec}: {len(found.inputs)} rows, {found.inputs.shape[1]} inputs")
