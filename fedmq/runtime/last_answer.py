"""Looks at the system that must never end a service: if one fails, the last answer stays in use."""

import logging
import math
import time
from collections.abc import Callable
from typing import TypeVar

LOGGED_AGAIN_S = 60.0

_T = TypeVar("_T")
log = logging.getLogger(__name__)


class LastAnswer:
    """Calls that only look at memory, members or keys; `what` names it in the log.

    An operating-system error, such as too many open files, gives the last answer and one line in the log a minute.
    """

    def __init__(self, what: object) -> None:
        self._what = what
        self._logged_at = -math.inf

    def of(self, look: Callable[[], _T], last: _T) -> _T:
        """Return the answer of `look`, or `last` if it raises OSError."""
        try:
            return look()
        except OSError as error:
            if (now := time.monotonic()) >= self._logged_at + LOGGED_AGAIN_S:
                self._logged_at = now
                log.warning("%s: cannot be read (%s); what was read last stays in use", self._what, error.strerror)
            return last
