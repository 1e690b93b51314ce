"""Rate limit for warnings that a peer can cause: the first of each kind, then one per interval with a count."""

import logging
import math
from collections.abc import Mapping

from fedmq.runtime.clock import Clock

AGAIN_S = 10.0
KINDS_MAX = 100  # further kinds share one


class RateLimited:
    """Writes the first warning of each kind, then at most one in `again_s` seconds."""

    def __init__(self, log: logging.Logger, clock: Clock, again_s: float = AGAIN_S) -> None:
        self._log, self._clock, self._again_s = log, clock, again_s
        self._logged: dict[str, tuple[float, int]] = {}  # by kind: time of the last line, and suppressed ones since

    def warning(self, kind: str, text: str, *args: object, extra: Mapping[str, object] | None = None) -> None:
        """Log a warning as `logging.Logger.warning` does, or count it as suppressed."""
        if kind not in self._logged and len(self._logged) >= KINDS_MAX:
            kind = ""
        now = self._clock.now()
        logged_at, suppressed = self._logged.get(kind, (-math.inf, 0))
        if now - logged_at < self._again_s:
            self._logged[kind] = logged_at, suppressed + 1
            return
        self._logged[kind] = now, 0
        if suppressed:
            text, args = text + " (and %s more like it since the last line)", (*args, suppressed)
        self._log.warning(text, *args, extra=extra)
