"""What systemd is told of a service: that it is ready, alive or ending, and in one line how it stands (sd_notify(3)).

The watchdog is fed by the passes of the service's loop and by nothing else, so a step that hangs is noticed. Knows
nothing of services; without a systemd that wants to know, nobody is told anything.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping

from fedmq.runtime.clock import earliest

STATUS_S = 1.0  # between two lines of status, at least
SEND_S = 1.0  # systemd takes a datagram within it, or it is lost

log = logging.getLogger(__name__)


class Notifier:
    """The socket on which systemd listens, as the environment of a service says; times are on the loop's clock."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._feed_s = _watchdog_s(environment) / 2 if self._address else 0.0  # 0: there is no watchdog
        self._feed_at = self._status_at = 0.0
        self._status: str | None = None
        self._passed = False  # since the status was looked at
        self._stopping = False

    @property
    def wake_at(self) -> float | None:
        """When the loop has to pass again, at the latest."""
        return earliest(self._status_at if self._passed else None, self._feed_at if self._feed_s else None)

    def ready(self) -> None:
        """The service does its work from now on."""
        self._tell("READY=1")

    def passed(self, now: float, status: Callable[[], str]) -> None:
        """The loop has passed once more; `status` is asked at most once in STATUS_S."""
        if not self._address:
            return
        if self._feed_s and now >= self._feed_at:
            self._feed_at = now + self._feed_s
            self._tell("WATCHDOG=1")
        self._passed = now < self._status_at
        if not self._passed and (line := status()) != self._status:
            self._status, self._status_at = line, now + STATUS_S
            self._tell("STATUS=" + line.replace("\n", " "))

    def stopping(self) -> None:
        """The service has begun to end."""
        if not self._stopping:
            self._stopping = True
            self._tell("STOPPING=1")

    def _tell(self, what: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(SEND_S)
                end.connect(self._address)
                end.send(what.encode())
        except OSError as error:
            log.warning("systemd cannot be told %s: %s", what.partition("=")[0], error)


def _watchdog_s(environment: Mapping[str, str]) -> float:
    """How long systemd waits for a sign of life of this very process; 0: it does not."""
    interval, process = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", str(os.getpid()))
    return int(interval) / 1e6 if interval.isdecimal() and process == str(os.getpid()) else 0.0
