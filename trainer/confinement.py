"""Restricts a process before it runs the code of a task: no files, network or other processes, limited memory.

No call lifts a restriction. The process keeps its open descriptors, may compute, and may read the standard library and
installed packages; not what else lies below a folder of `sys.path`, such as the keys in a checkout.
"""

import ctypes
import errno
import os
import platform
import resource
import signal
import site
import struct
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

FILES_MAX = 64

_NEW_USER, _NEW_NETWORK, _NEW_IPC = 0x10000000, 0x40000000, 0x08000000  # unshare(2)
_PARENT_DEATH_SIGNAL, _SECCOMP, _NO_NEW_PRIVILEGES = 1, 22, 38  # prctl(2)
_SECCOMP_FILTER = 2
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # system calls, on all architectures
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_LANDLOCK_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # number of rights by version of Landlock; 16 since 5
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# For modules that are imported late: shared libraries, and time zones.
_LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")


class _Calls(NamedTuple):
    """Allowed system calls of an architecture: `openat` for reading only, the others without conditions."""

    architecture: int  # AUDIT_ARCH_… of linux/audit.h
    openat: int
    others: str  # name:number


# Not allowed: sockets, new processes and threads, signals to other processes, changes of files and limits.
_ALLOWED = {
    "x86_64": _Calls(
        0xC000003E,
        257,
        """
        read:0 write:1 readv:19 pread64:17 close:3 lseek:8 stat:4 fstat:5 lstat:6 newfstatat:262 statx:332 access:21
        faccessat:269 faccessat2:439 getdents64:217 getcwd:79 readlink:89 readlinkat:267 mmap:9 mprotect:10 munmap:11
        mremap:25 madvise:28 brk:12 rt_sigaction:13 rt_sigprocmask:14 rt_sigreturn:15 sigaltstack:131 poll:7 ppoll:271
        select:23 pselect6:270 nanosleep:35 clock_nanosleep:230 clock_gettime:228 clock_getres:229 gettimeofday:96
        time:201 times:100 getpid:39 getppid:110 gettid:186 getuid:102 geteuid:107 getgid:104 getegid:108 uname:63
        sysinfo:99 getrusage:98 sched_yield:24 sched_getaffinity:204 getcpu:309 futex:202 set_robust_list:273 rseq:334
        membarrier:324 restart_syscall:219 getrandom:318 exit:60 exit_group:231
        """,
    ),
    "aarch64": _Calls(
        0xC00000B7,
        56,
        """
        read:63 write:64 readv:65 pread64:67 close:57 lseek:62 fstat:80 newfstatat:79 statx:291 faccessat:48
        faccessat2:439 getdents64:61 getcwd:17 readlinkat:78 mmap:222 mprotect:226 munmap:215 mremap:216 madvise:233
        brk:214 rt_sigaction:134 rt_sigprocmask:135 rt_sigreturn:139 sigaltstack:132 ppoll:73 pselect6:72
        nanosleep:101 clock_nanosleep:115 clock_gettime:113 clock_getres:114 gettimeofday:169 times:153 getpid:172
        getppid:173 gettid:178 getuid:174 geteuid:175 getgid:176 getegid:177 uname:160 sysinfo:179 getrusage:165
        sched_yield:124 sched_getaffinity:123 getcpu:168 futex:98 set_robust_list:99 rseq:293 membarrier:283
        restart_syscall:128 getrandom:278 exit:93 exit_group:94
        """,
    ),
}


def readable_paths() -> list[Path]:
    """Return what confined code can read: the standard library, installed packages, fedmq itself, and libraries."""
    installed = sysconfig.get_paths()
    found = [installed[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    found += [f"{prefix}/{lib}" for prefix in (sys.prefix, sys.base_prefix) for lib in ("lib", "lib64")]
    own = Path(__file__).parents[1]  # in a checkout some of its packages are links
    paths = [*map(Path, (*found, *_LIBRARIES)), own, *(path for path in own.iterdir() if path.is_dir())]
    return sorted({path.resolve() for path in paths if path.exists()})


def exposed(private: Path) -> Path | None:
    """Return the folder below which confined code could read a file or folder; None if it cannot."""
    place = private.resolve()
    return next((path for path in readable_paths() if place.is_relative_to(path)), None)


def confine(memory_bytes: int) -> tuple[str, ...]:
    """Restrict this process, which must have one thread; return the restrictions that this kernel does not support.

    `memory_bytes` limits the address space of the whole process, its libraries included.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    missing = []
    own_network = any(libc.unshare(user | _NEW_NETWORK | _NEW_IPC) == 0 for user in (_NEW_USER, 0))
    if not own_network:
        missing.append(f"a network of its own ({_why()})")
    # After unshare, which would reset it: a change of credentials clears the parent-death signal.
    libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    if (problem := _limit(memory_bytes)) is not None:
        missing.append(f"limits of memory, files and processes ({problem})")
    if (problem := _close_files(libc, readable_paths())) is not None:
        missing.append(f"no access to files ({problem})")
    if (problem := _filter_calls(libc)) is not None:
        missing.append(f"a filter of system calls ({problem})")
        if not own_network:
            missing.append("no network")
    return tuple(missing)


def _limit(memory_bytes: int) -> str | None:
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_NOFILE: FILES_MAX,
        resource.RLIMIT_NPROC: 0,
    }
    try:
        for limit, wanted in limits.items():
            _, hard = resource.getrlimit(limit)
            most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(limit, (most, most))
    except (OSError, ValueError) as error:
        return str(error)
    return None


def _close_files(libc: ctypes.CDLL, readable: Iterable[Path]) -> str | None:
    """Allow only to read these paths, by Landlock (https://docs.kernel.org/userspace-api/landlock.html)."""
    version = libc.syscall(_LANDLOCK_CREATE, None, 0, 1)
    if version < 1:
        return _why()
    rights = (1 << _LANDLOCK_RIGHTS.get(version, 16)) - 1
    ruleset = libc.syscall(_LANDLOCK_CREATE, struct.pack("=Q", rights), 8, 0)
    if ruleset < 0:
        return _why()
    for path in readable:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:  # it does not exist or is not readable
            continue
        allowed = _READ_FILE | _READ_FOLDER if path.is_dir() else _READ_FILE
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", allowed, place), 0)
        os.close(place)
    problem = _why() if libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) != 0 else None
    os.close(ruleset)
    return problem


def _filter_calls(libc: ctypes.CDLL) -> str | None:
    """Let forbidden calls fail with EPERM, by seccomp (https://docs.kernel.org/userspace-api/seccomp_filter.html)."""
    calls = _ALLOWED.get(platform.machine())
    if calls is None:
        return f"not supported on {platform.machine()}"
    filters = b"".join(struct.pack("=HBBI", *line) for line in _program(calls))
    kept = ctypes.create_string_buffer(filters, len(filters))
    program = struct.pack("@HP", len(filters) // 8, ctypes.addressof(kept))
    return _why() if libc.prctl(_SECCOMP, _SECCOMP_FILTER, program, 0, 0) != 0 else None


def _program(calls: _Calls) -> list[tuple[int, int, int, int]]:
    """Return the filter as classic BPF: (operation, lines to skip if true, lines to skip if false, operand)."""
    load, equal, any_bit, answer = 0x20, 0x15, 0x45, 0x06
    deny, allow = 0x00050000 | errno.EPERM, 0x7FFF0000
    others = [int(call.partition(":")[2]) for call in calls.others.split()]
    count = len(others)
    lines = [
        (load, 0, 0, 4),  # the architecture: others have other numbers
        (equal, 0, count + 2, calls.architecture),
        (load, 0, 0, 0),  # the number of the call
        (equal, count + 1, 0, calls.openat),
    ]
    lines += [(equal, count - index + 3, 0, call) for index, call in enumerate(others)]
    return [
        *lines,
        (answer, 0, 0, deny),
        (load, 0, 0, 32),  # the flags of openat, its third argument
        (any_bit, 0, 1, _WRITING),
        (answer, 0, 0, deny),
        (answer, 0, 0, allow),
    ]


def _why() -> str:
    return os.strerror(ctypes.get_errno())
