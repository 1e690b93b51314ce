"""File descriptors: how many this process may open, and how many it has open."""

import resource
from contextlib import suppress
from pathlib import Path

from fedmq.errors import BadConfiguration

RAISE_LIMIT = "raise the limit (ulimit -n, or LimitNOFILE= in a unit)"
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
    try:
        return len(list(Path("/proc/self/fd").iterdir())) - 1  # without the one that lists them
    except OSError:  # none is left
        return descriptor_limit()


def require_descriptors(count: int) -> None:
    """Check that this process may open so many more.

    Raises:
        BadConfiguration: its limit is too low.
    """
    limit, wanted = descriptor_limit(), open_descriptors() + count
    if wanted > limit:
        raise BadConfiguration(f"expected a limit of at least {wanted} open files, got {limit}: {RAISE_LIMIT}")
