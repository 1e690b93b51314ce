"""Clocks; `fedmq.testing` has one that tests move."""

import time
from typing import Protocol


class Clock(Protocol):
    """The clock of a service."""

    def now(self) -> float:
        """Return monotonic seconds; only differences have a meaning."""

    def wall(self) -> float:
        """Return seconds since 1970-01-01 UTC; they may jump, so only the expiry of tokens depends on them."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


def earliest(*times: float | None) -> float | None:
    """Return the earliest non-None time, or None."""
    found = None
    for at in times:  # a loop: services ask several times a round, and a generator costs three times as much
        if at is not None and (found is None or at < found):
            found = at
    return found


def time_text(seconds: float, form: str = "%Y-%m-%d %H:%M UTC", *, local: bool = False) -> str:
    """Return a time in seconds since 1970 as text, by default in UTC; "?" for a time that no calendar has."""
    try:
        return time.strftime(form, time.localtime(seconds) if local else time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):  # of a foreign file, or of a clock that is far off
        return "?"
