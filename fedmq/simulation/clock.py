"""A virtual clock that a simulation moves."""


class VirtualClock:
    """A clock that changes only when it is moved."""

    def __init__(self, wall: float = 1e9) -> None:
        self._now = 0.0
        self._wall = wall

    def now(self) -> float:
        """Return virtual seconds since the start of the simulation."""
        return self._now

    def wall(self) -> float:
        """Return the same as seconds since 1970, as if the simulation had started at `wall`, in 2001; may jump."""
        return self._wall + self._now

    def jump(self, seconds: float) -> None:
        """Move the wall clock, as an administrator or a time server would."""
        self._wall += seconds

    def move_to(self, time: float) -> None:
        """Move to a time; never back."""
        self._now = max(self._now, time)
