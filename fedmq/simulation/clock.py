"""A clock whose hands are moved by a simulation."""

from __future__ import annotations


class VirtualClock:
    """A clock that stands still until the simulation moves it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._wall = 1e9

    def now(self) -> float:
        """Virtual seconds since the simulation began."""
        return self._now

    def wall(self) -> float:
        """The same, as if the simulation had begun in 2001; it may jump."""
        return self._wall + self._now

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an administrator or a time server would."""
        self._wall += seconds

    def move_to(self, time: float) -> None:
        """Set the hands; never back."""
        self._now = max(self._now, time)
