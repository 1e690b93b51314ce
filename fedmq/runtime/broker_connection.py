"""Whether an edge has reached its broker: says once that it is not there, and gives up when it was told to.

Knows nothing of sockets: the service that owns the link tells it what it heard of the broker.
"""

from __future__ import annotations

import logging

from fedmq.errors import NotAuthorized, Unreachable
from fedmq.runtime.clock import earliest

NOTICE_S = 1.0  # a broker that is started at the same time is there before that

log = logging.getLogger(__name__)


class BrokerConnection:
    """How things stand with the broker at `address`; times are on the clock of the service that asks.

    `timeout_s` bounds the wait for the first contact; None: wait for ever. Once it was reached, a broker that goes
    away is waited for without an end: it is being restarted.
    """

    def __init__(self, address: str, now: float, timeout_s: float | None) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._give_up_at = None if timeout_s is None else now + timeout_s
        self._notice_at: float | None = now + NOTICE_S
        self._missed = False  # somebody was told that the broker is away,
        self._shut_out = False  # or that it does not let us in
        self._reached = False  # once at least
        self._answered = False  # something was there, and ended the connection before it was one
        self.is_up = False  # now
        self.contacts = 0  # how many times it was reached

    @property
    def problem(self) -> str:
        """What is missing, in words; "" when the broker is there."""
        return "" if self.is_up else f"the broker at {self._address} is not there"

    @property
    def wake_at(self) -> float | None:
        """When `check` is due, at the latest."""
        return earliest(self._notice_at, self._give_up_at)

    def up(self) -> None:
        """The broker is there."""
        self.contacts += not self.is_up
        self._notice_at = self._give_up_at = None
        self._reached = self.is_up = True
        if self._missed:
            log.warning("the broker at %s is there", self._address)
        self._missed = self._shut_out = False

    def down(self) -> None:
        """The broker is gone, or what is there is none of ours."""
        self.is_up = False
        if not self._reached:
            self._answered = True  # `check` says so
            return
        if not self._missed:
            log.warning("the broker at %s is gone; trying again until it is back", self._address)
        self._missed = True

    def refused(self) -> None:
        """The broker does not let us in; one that did before may do so again, when its keys are mended.

        Raises:
            NotAuthorized: it never did.
        """
        self.is_up = False
        if not self._reached:
            raise NotAuthorized(
                f"the broker at {self._address} does not let us in: expected --keys DIR with a key that its federation "
                "has accepted (fedmq trainer join TOKEN, fedmq keys accept FINGERPRINT)"
            )
        if not self._shut_out:  # that its connection has ended was said before
            log.warning("the broker at %s does not let us in any more; trying again until it does", self._address)
        self._missed = self._shut_out = True

    def check(self, now: float) -> None:
        """Say, once, that the broker is not there.

        Raises:
            Unreachable: it was not there in the time that was allowed.
        """
        if self._give_up_at is not None and now >= self._give_up_at:
            came, start = "nothing answered", "it with fedmq broker"
            if self._answered:
                came, start = "what is there ends our connections", "fedmq broker with our keys there"
            raise Unreachable(
                f"expected a broker at {self._address} within {self._timeout_s:g} s, {came}: "
                f"start {start}, or say with --broker where it is"
            )
        if self._notice_at is not None and now >= self._notice_at:
            self._notice_at, self._missed = None, True
            if self._answered:
                log.warning(
                    "what is at %s ends our connections: no broker, or with other keys; trying again", self._address
                )
            else:
                log.warning("the broker at %s is not there yet; trying again", self._address)
