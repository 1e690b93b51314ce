"""Times at which something is due, some of which never come. Knows nothing of clocks, or of what is due."""

from __future__ import annotations


def earliest(*times: float | None) -> float | None:
    """The first of these times; None stands for never, among them and as the answer."""
    first: float | None = None
    for time in times:
        if time is not None and (first is None or time < first):
            first = time
    return first
