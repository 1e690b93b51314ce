"""The trainer's side of enrollment: send a request again and again until the broker's answer is final."""

from collections.abc import Callable

from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames
from fedmq.runtime.broker_connection import BrokerConnection
from fedmq.runtime.clock import Clock, earliest
from fedmq.security.enrollment import RequestStatus, decode_status
from fedmq.transport.link import Delivered, Link, LinkRefused, LinkUp

RETRY_S = 0.5
REFUSALS_MAX = 3  # one second apart: the broker may not have read a new token yet
SILENCE_MAX_S = 10.0  # a broker that accepts the connection and does not answer does not know the key


class EnrollmentClient:
    """One request over one connection, sent until `expires` (seconds since 1970; None for no limit).

    `answer` is the last answer; None if the broker refused the connection or did not answer.

    Raises (from `step`):
        Unreachable: the broker did not answer within `connect_timeout_s`.
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
        on_waiting: Callable[[RequestStatus], None],
    ) -> None:
        self.done = self.interrupted = False
        self.answer: RequestStatus | None = None
        self._link, self._frames, self._clock, self._expires = link, frames, clock, expires
        self._on_waiting = on_waiting
        self._connection = BrokerConnection(broker, clock.now(), connect_timeout_s)
        self._send_at: float | None = None  # None while there is no connection
        self._answer_by = 0.0
        self._refusals = 0

    @property
    def wake_at(self) -> float:
        first = earliest(self._send_at, self._connection.wake_at)
        return self._clock.now() + RETRY_S if first is None else first

    @property
    def status(self) -> str:
        return "waits for acceptance"

    def stop(self) -> None:
        self.done = self.interrupted = True

    def step(self) -> None:
        now = self._clock.now()
        for event in self._link.receive():
            if isinstance(event, Delivered):
                self._receive(event.frames, now)
            elif isinstance(event, LinkUp):
                self._send_at, self._answer_by = now, now + SILENCE_MAX_S
                self._connection.up()
            elif isinstance(event, LinkRefused):
                self._refused()
            elif self._send_at is not None:  # else it is about a connection that was never accepted
                self._send_at = None
                self._connection.down()
        if self.done:
            return
        self._connection.check(now)
        if self._expires is not None and self._clock.wall() >= self._expires:
            self._end(RequestStatus(state="expired"))
        elif self._send_at is not None and now >= self._answer_by:
            self._end(None)
        elif self._send_at is not None and now >= self._send_at:
            self._send_at = now + RETRY_S
            self._link.send(self._frames)

    def _refused(self) -> None:
        self._connection.up()  # a refusal is an answer of the broker
        self._refusals += 1
        if self._refusals >= REFUSALS_MAX:
            self._end(None)

    def _receive(self, frames: Frames, now: float) -> None:
        try:
            status = decode_status(frames)
        except Rejected:
            return
        if self.done:
            return
        self._answer_by = now + SILENCE_MAX_S
        if status.state != "waiting":
            self._end(status)
        elif status != self.answer:
            self.answer = status
            self._on_waiting(status)

    def _end(self, answer: RequestStatus | None) -> None:
        if not self.done:
            self.done, self.answer = True, answer
