"""Warnings about what anybody may cause at any rate: of each kind one, then one in a while that says how many came.

Knows nothing of what the lines are about.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from fedmq.runtime.clock import Clock

AGAIN_S = 10.0
KINDS_MAX = 100  # all others are one kind together


class RateLimited:
    """A logger's warnings, of each kind the first, and then at most one in `again_s` seconds."""

    def __init__(self, log: logging.Logger, clock: Clock, again_s: float = AGAIN_S) -> None:
        self._log, self._clock, self._again_s = log, clock, again_s
        self._said: dict[str, tuple[float, int]] = {}  # by kind: when, and how many were left out since

    def warning(self, kind: str, text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Say it, as `logging.Logger.warning` does, or count it."""
        if kind not in self._said and len(self._said) >= KINDS_MAX:
            kind = ""
        now = self._clock.now()
        said_at, left_out = self._said.get(kind, (-math.inf, 0))
        if now - said_at < self._again_s:
            self._said[kind] = said_at, left_out + 1
            return
        self._said[kind] = now, 0
        if left_out:
            text, args = text + " (and %s more like it since the last line)", (*args, left_out)
        self._log.warning(text, *args, extra=extra)
