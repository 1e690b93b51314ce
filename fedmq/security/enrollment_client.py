"""Asks for a place in a federation, again and again, until it is answered for good.

Knows nothing of files, nor of where the keys come from.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames
from fedmq.runtime.broker_connection import BrokerConnection
from fedmq.runtime.clock import Clock, SystemClock, earliest
from fedmq.security.enrollment import RequestStatus, ask, decode_status
from fedmq.transport.link import Delivered, Link, LinkRefused, LinkUp

if TYPE_CHECKING:
    from fedmq.security.keyring import FederationInfo
    from fedmq.security.keys import Identity
    from fedmq.transport.zeromq import TransportKeys

AGAIN_S = 0.5
REFUSALS_MAX = 3  # a second apart: the broker may not have seen yet a token that was made just now
SILENT_S = 10.0  # a broker that lets us connect and does not answer knows nothing of us


class EnrollmentClient:
    """One attempt; see `loop.Service`. `status` is the last answer, None when the broker has none for this key.

    Raises (from `step`):
        Unreachable: the broker was not there in the time that was allowed.
    """

    def __init__(
        self,
        link: Link,
        frames: Frames,
        *,
        clock: Clock,
        broker: str,
        connect_timeout_s: float | None,
        expires: float | None,
        tell: Callable[[RequestStatus], None],
    ) -> None:
        """`expires` is when the token does, on the wall's clock."""
        self.done = self.interrupted = False
        self.answer: RequestStatus | None = None
        self._link, self._frames, self._clock, self._expires, self._tell = link, frames, clock, expires, tell
        self._reach = BrokerConnection(broker, clock.now(), connect_timeout_s)
        self._ask_at: float | None = None  # none while there is no connection
        self._answer_by = 0.0
        self._refusals = 0

    @property
    def wake_at(self) -> float:
        """See `loop.Service`."""
        first = earliest(self._ask_at, self._reach.wake_at)
        return self._clock.now() + AGAIN_S if first is None else first

    @property
    def status(self) -> str:
        """See `loop.Service`."""
        return "waits to be let in"

    def stop(self) -> None:
        """See `loop.Service`."""
        self.done = self.interrupted = True

    def step(self) -> None:
        """See `loop.Service`."""
        now = self._clock.now()
        for news in self._link.receive():
            if isinstance(news, Delivered):
                self._hear(news.frames, now)
            elif isinstance(news, LinkUp):
                self._ask_at, self._answer_by = now, now + SILENT_S
                self._reach.up()
            elif isinstance(news, LinkRefused):
                self._refused()
            elif self._ask_at is not None:  # else it is about a connection that never was let in
                self._ask_at = None
                self._reach.down()
        if self.done:
            return
        self._reach.check(now)
        if self._expires is not None and self._clock.wall() >= self._expires:
            self._end(RequestStatus(state="expired"))
        elif self._ask_at is not None and now >= self._answer_by:
            self._end(None)
        elif self._ask_at is not None and now >= self._ask_at:
            self._ask_at = now + AGAIN_S
            self._link.send(self._frames)

    def _refused(self) -> None:
        self._reach.up()  # it answers, after all
        self._refusals += 1
        if self._refusals >= REFUSALS_MAX:
            self._end(None)

    def _hear(self, frames: Frames, now: float) -> None:
        try:
            status = decode_status(frames)
        except Rejected:
            return
        if self.done:
            return
        self._answer_by = now + SILENT_S
        if status.state != "waiting":
            self._end(status)
        elif status != self.answer:
            self.answer = status
            self._tell(status)

    def _end(self, status: RequestStatus | None) -> None:
        if not self.done:
            self.done, self.answer = True, status


def ask_broker(
    federation: FederationInfo,
    keys: TransportKeys,
    identities: tuple[Identity, ...],
    tell: Callable[[RequestStatus], None],
    *,
    timeout_s: float | None,
    expires: float | None = None,
) -> EnrollmentClient:
    """How it ended: a place for the first identity was asked for over a connection with `keys`, signed by all of them.

    Raises:
        Unreachable: the broker was not there in the time that was allowed.
    """
    from fedmq.runtime.loop import serve
    from fedmq.transport.zeromq import JoinSockets

    clock, link = SystemClock(), JoinSockets(federation.broker, keys)
    joiner = EnrollmentClient(
        link,
        ask(federation.id, keys.public, *identities),
        clock=clock,
        broker=federation.broker,
        connect_timeout_s=timeout_s,
        expires=expires,
        tell=tell,
    )
    try:
        serve(joiner, link, clock)
    finally:
        link.close()
    return joiner
