"""File descriptors: how many this process may open, and how many it has open."""

import resource
from contextlib import suppress
from pathlib import Path

UNLIMITED = 1 << 20  # a limit of this many, or none, is more than any service needs


def raise_limit() -> None:
    """Raise the soft limit to the hard one: the soft one is low only for programs that use select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems accept no limit that high: the current one stays
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UNLIMITED if soft == resource.RLIM_INFINITY else min(soft, UNLIMITED)


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir())) - 1  # without the one that lists them
