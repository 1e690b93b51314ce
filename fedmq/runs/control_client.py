"""An operator's word to a live run, through the broker: pause, stop, ban a trainer …, and whether it was heeded.

Knows the run by its name; what is done about it the run's own aggregator decides.
"""

from __future__ import annotations

import secrets

from fedmq.errors import BadConfiguration, NotAuthorized, Rejected, Unreachable
from fedmq.protocol import topics
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Action, Beacon, Control, Finished, Round
from fedmq.runtime.clock import Clock
from fedmq.security.keyring import Credentials
from fedmq.security.signing import NoSigning, Signing, TrainerSigning
from fedmq.transport.link import Delivered, Link, LinkRefused
from fedmq.transport.zeromq import SubscriberSockets

AGAIN_S = 0.5
ANSWER_S = 10.0


class Operator:
    """Asks until what the run publishes shows that it was heard; see `loop.Service`.

    `trainer` is whom to drain, ban or readmit, `word` a number (1 or more) that no other operator says.
    `heeded` says whether it was, once this is done; not if it was interrupted before.

    Raises (from `step`):
        NotAuthorized: the broker does not let us in.
        Unreachable: nothing was heard of the run in time, or it did not heed.
        BadConfiguration: the run is over, so that nothing but a stop can be heeded.
    """

    def __init__(
        self,
        link: Link,
        run: str,
        action: Action,
        *,
        clock: Clock,
        request_id: int,
        trainer: str | None = None,
        signing: Signing | None = None,
    ) -> None:
        self.done = self.acked_request = False
        self._link, self._run, self._action, self._clock = link, run, action, clock
        self._trainer, self._request_id = trainer, request_id
        self._asks = f"to {action}{'' if trainer is None else ' ' + trainer}"
        self._signing: Signing = signing or NoSigning()
        self._term: int | None = None  # once the run was heard
        self._ask_at = 0.0
        self._give_up_at = clock.now() + ANSWER_S

    @property
    def wake_at(self) -> float:
        return self._give_up_at if self._term is None else min(self._ask_at, self._give_up_at)

    @property
    def status(self) -> str:
        return f"asks run {self._run} {self._asks}"

    def stop(self) -> None:
        self.done = True

    def step(self) -> None:
        for news in self._link.receive():
            if isinstance(news, Delivered):
                self._hear(news)
            elif isinstance(news, LinkRefused):
                raise NotAuthorized("the broker does not let us in: expected --keys with the aggregator's key")
        now = self._clock.now()
        if self.done:
            return
        if now >= self._give_up_at:
            came = "nothing came" if self._term is None else "it was heard, but not of that"
            raise Unreachable(
                f"expected run {self._run} {self._asks} within {ANSWER_S:g} s, {came}: "
                "is its aggregator running, and is --broker right? fedmq runs ls says how runs stand"
            )
        if self._term is not None and now >= self._ask_at:
            self._ask_at = now + AGAIN_S
            control = Control(
                run=self._run, term=self._term, action=self._action, trainer=self._trainer, request_id=self._request_id
            )
            self._link.send(encode(topics.up_to(self._run), control, sign=self._signing.sign))

    def _hear(self, news: Delivered) -> None:
        try:
            packet = decode(news.frames)
            self._signing.check(packet, self._clock.now())
        except Rejected:
            return
        message = packet.message
        if not isinstance(message, Round | Beacon | Finished) or message.run != self._run:
            return
        if self._term is not None and message.term < self._term:
            return  # a zombie, that speaks for nobody
        self._term = message.term
        if isinstance(message, Finished):
            if self._action != "stop":
                raise BadConfiguration(f"run {self._run} is over; there is nothing {self._asks}")
            self.done = self.acked_request = True
        elif isinstance(message, Beacon) and self._shows(message):  # a Round that comes again says nothing of this
            self.done = self.acked_request = True

    def _shows(self, beacon: Beacon) -> bool:
        """Whether the run is as it is wanted."""
        if self._action in ("pause", "resume"):
            return beacon.paused is (self._action == "pause")
        return self._action != "stop" and beacon.acked_request == self._request_id


def open_operator(
    address: str, credentials: Credentials | None, run: str, action: Action, *, clock: Clock, trainer: str | None = None
) -> tuple[Operator, SubscriberSockets]:
    """An operator at that broker, and its link, which is to be closed in the end."""
    link = SubscriberSockets(address, topics.round_of(run), topics.beacon_of(run), credentials=credentials)
    signing = None if credentials is None else TrainerSigning(credentials)
    request_id = secrets.randbelow(2**53) + 1
    return Operator(link, run, action, clock=clock, request_id=request_id, trainer=trainer, signing=signing), link
