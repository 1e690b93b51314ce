"""The state of an edge's connection to its broker: logs each change once, and gives up after the connect timeout."""

import logging

from fedmq.errors import NotAuthorized, Unreachable
from fedmq.runtime.clock import earliest

NOTICE_S = 3.0  # a broker that starts at the same time is up before that, on a slow or busy machine too

log = logging.getLogger(__name__)


class BrokerConnection:
    """The connection to the broker at `address`; times are on the clock of the calling service.

    `timeout_s` limits the wait for the first connection; None: no limit. After it, the service waits for a broker that
    is down without a limit: it is being restarted.
    """

    def __init__(self, address: str, now: float, timeout_s: float | None) -> None:
        self.address, self._timeout_s = address, timeout_s
        self._give_up_at = None if timeout_s is None else now + timeout_s
        self._notice_at: float | None = now + NOTICE_S
        self._logged_down = False  # it was logged that the broker is down,
        self._logged_refused = False  # or that it rejects our key
        self._was_closed = False  # something accepted the connection and closed it before the handshake
        self.is_up = False
        self.contacts = 0  # number of connections so far

    @property
    def problem(self) -> str:
        """What is wrong, for people; "" while connected."""
        return "" if self.is_up else f"the broker at {self.address} is not connected"

    @property
    def wake_at(self) -> float | None:
        """Time at which `check` is due, or None."""
        return earliest(self._notice_at, self._give_up_at)

    def up(self) -> None:
        self.contacts += not self.is_up
        self._notice_at = self._give_up_at = None
        self.is_up = True
        if self._logged_down:
            log.warning("the broker at %s is connected", self.address)
        self._logged_down = self._logged_refused = False

    def down(self) -> None:
        """Register that the connection is down, or was closed before the handshake."""
        self.is_up = False
        if not self.contacts:
            self._was_closed = True  # `check` says so
            return
        if not self._logged_down:
            log.warning("the broker at %s is disconnected; trying again until it is back", self.address)
        self._logged_down = True

    def refused(self) -> None:
        """Register that the broker rejects our key. After a first connection, retry: its keys may be corrected.

        Raises:
            NotAuthorized: the broker has never accepted the key.
        """
        self.is_up = False
        if not self.contacts:
            raise NotAuthorized(
                f"the broker at {self.address} rejects this key: expected --keys DIR with a key that its federation "
                "has accepted (fedmq trainer join, fedmq keys accept FINGERPRINT)"
            )
        if not self._logged_refused:  # the disconnection was logged before
            log.warning("the broker at %s rejects this key; trying again until it accepts it", self.address)
        self._logged_down = self._logged_refused = True

    def check(self, now: float) -> None:
        """Log once that the broker is not connected.

        Raises:
            Unreachable: there was no connection within the timeout.
        """
        if self._give_up_at is not None and now >= self._give_up_at:
            got, start = "no answer", "it with fedmq broker"
            if self._was_closed:
                got, start = "closed connections", "fedmq broker with our keys there"
            raise Unreachable(
                f"expected a broker at {self.address} within {self._timeout_s:g} s, got {got}: "
                f"start {start}, or set --broker"
            )
        if self._notice_at is not None and now >= self._notice_at:
            self._notice_at, self._logged_down = None, True
            if self._was_closed:
                log.warning(
                    "the service at %s closes connections: it is no broker, or has other keys; trying again",
                    self.address,
                )
            else:
                log.warning("the broker at %s does not answer yet; trying again", self.address)
