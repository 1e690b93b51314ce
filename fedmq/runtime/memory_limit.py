"""How much memory this process may use: the least of the machine's, its control groups' and its own limits."""

import os
import resource
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def memory_allowed() -> int | None:
    """Return the memory that this process may use, in bytes; None without any limit."""
    limits = [_machine_bytes(), *_cgroup_bytes()]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    return min((limit for limit in limits if limit), default=None)


def _machine_bytes() -> int:
    with suppress(OSError, ValueError):
        return max(0, os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _cgroup_bytes() -> list[int]:
    """Return the limits of this process's control group (version 2) and of those above it."""
    found = []
    with suppress(OSError, ValueError):
        own = OWN_CGROUP.read_text().rpartition("0::/")[2].strip()
        folder = CGROUPS / own
        for group in (folder, *folder.parents):
            if not group.is_relative_to(CGROUPS):
                break
            with suppress(OSError, ValueError):
                found.append(int((group / "memory.max").read_text()))  # "max": no limit
    return found
