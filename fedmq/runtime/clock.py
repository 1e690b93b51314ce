"""Time, given to those who need it; `fedmq.testing` has a clock whose hands are moved by a test."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the services ask for the time."""

    def now(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    def wall(self) -> float:
        """Seconds since 1970-01-01 UTC, for people; may jump. It decides nothing but whether a token has expired."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """CLOCK_MONOTONIC."""
        return time.monotonic()

    def wall(self) -> float:
        """CLOCK_REALTIME."""
        return time.time()


def earliest(*times: float | None) -> float | None:
    """Return the earliest non-None time, or None."""
    first: float | None = None
    for at in times:
        if at is not None and (first is None or at < first):
            first = at
    return first
