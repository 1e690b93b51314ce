"""Notifications to systemd (sd_notify(3)): readiness, watchdog, status and stop of a service.

Only iterations of the service's loop feed the watchdog, so a step that hangs is noticed. Without NOTIFY_SOCKET nothing
is sent.
"""

import logging
import os
import socket
from collections.abc import Callable, Mapping

from fedmq.runtime.clock import earliest
from fedmq.runtime.printable import printable

STATUS_S = 1.0  # shortest time between two status lines
SEND_S = 1.0  # timeout; then the notification is lost

log = logging.getLogger(__name__)


class Notifier:
    """Sends notifications to the socket in the environment; times are on the loop's clock."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec, own_pid = environment.get("WATCHDOG_USEC", ""), str(os.getpid())
        for_us = self._address and usec.isdecimal() and environment.get("WATCHDOG_PID", own_pid) == own_pid
        self._feed_s = int(usec) / 2e6 if for_us else 0.0  # 0: there is no watchdog
        self._feed_at = self._status_at = 0.0
        self._status: str | None = None
        self._passed = False  # since the last status line
        self._stopping = False

    @property
    def wake_at(self) -> float | None:
        """Time of the next necessary iteration of the loop, or None."""
        return earliest(self._status_at if self._passed else None, self._feed_at if self._feed_s else None)

    def ready(self) -> None:
        self._notify("READY=1")

    def passed(self, now: float, status: Callable[[], str]) -> None:
        """Register an iteration of the loop; call `status` at most once in STATUS_S."""
        if not self._address:
            return
        if self._feed_s and now >= self._feed_at:
            self._feed_at = now + self._feed_s
            self._notify("WATCHDOG=1")
        self._passed = now < self._status_at
        if not self._passed and (line := status()) != self._status:
            self._status, self._status_at = line, now + STATUS_S
            self._notify("STATUS=" + printable(line))

    def stopping(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._notify("STOPPING=1")

    def _notify(self, what: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
                end.settimeout(SEND_S)
                end.connect(self._address)
                end.send(what.encode())
        except OSError as error:
            log.warning("systemd cannot be notified of %s: %s", what.partition("=")[0], error)
