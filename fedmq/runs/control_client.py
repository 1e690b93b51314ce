"""A control client: send a control command to a live run through the broker, until the run acknowledges it."""

import secrets

from fedmq.errors import BadConfiguration, NotAuthorized, Rejected, Unreachable
from fedmq.protocol import topics
from fedmq.protocol.codec import encode
from fedmq.protocol.messages import Action, Beacon, Control, Finished, Round
from fedmq.runtime.clock import Clock
from fedmq.security.keyring import Credentials
from fedmq.security.signing import NoSigning, Signing, TrainerSigning
from fedmq.transport.link import Delivered, Link, LinkRefused
from fedmq.transport.receive import verified
from fedmq.transport.zeromq import SubscriberSockets

RESEND_S = 0.5
TIMEOUT_S = 10.0


class ControlClient:
    """Sends one control command, again and again until the run acknowledges it; see `loop.Service`.

    `trainer` is the one to drain, ban or readmit, `request_id` a unique number of 1 or more. Once `done`,
    `acked_request` says whether the run acknowledged the command; it did not if the client was stopped before.

    Raises (from `step`):
        NotAuthorized: the broker rejects the key.
        Unreachable: the run sent nothing in time, or did not acknowledge the command.
        BadConfiguration: the run is over, and the command is not stop.
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
        self._command = f"to {action}{'' if trainer is None else ' ' + trainer}"
        self._signing: Signing = signing or NoSigning()
        self._term: int | None = None  # of the last message of the run
        self._send_at = 0.0
        self._give_up_at = clock.now() + TIMEOUT_S

    @property
    def wake_at(self) -> float:
        return self._give_up_at if self._term is None else min(self._send_at, self._give_up_at)

    @property
    def status(self) -> str:
        return f"asks run {self._run} {self._command}"

    def stop(self) -> None:
        self.done = True

    def step(self) -> None:
        for event in self._link.receive():
            if isinstance(event, Delivered):
                self._receive(event)
            elif isinstance(event, LinkRefused):
                raise NotAuthorized("the broker rejects the key: expected --keys with the aggregator's key")
        now = self._clock.now()
        if self.done:
            return
        if now >= self._give_up_at:
            came = "it sent nothing" if self._term is None else "it did not acknowledge the command"
            raise Unreachable(
                f"expected run {self._run} {self._command} within {TIMEOUT_S:g} s, {came}: "
                "is its aggregator running, and is --broker right? fedmq runs ls lists the status of runs"
            )
        if self._term is not None and now >= self._send_at:
            self._send_at = now + RESEND_S
            control = Control(
                run=self._run, term=self._term, action=self._action, trainer=self._trainer, request_id=self._request_id
            )
            self._link.send(encode(topics.UP + self._run, control, sign=self._signing.sign))

    def _receive(self, event: Delivered) -> None:
        try:
            packet, _ = verified(event.frames, self._signing, self._clock)
        except Rejected:
            return
        message = packet.message
        if not isinstance(message, Round | Beacon | Finished) or message.run != self._run:
            return
        if self._term is not None and message.term < self._term:
            return  # of a life of the aggregator that is over
        self._term = message.term
        if isinstance(message, Finished):
            if self._action != "stop":
                raise BadConfiguration(f"run {self._run} is over; there is nothing {self._command}")
            self.done = self.acked_request = True
        elif isinstance(message, Beacon) and self._acknowledges(message):
            self.done = self.acked_request = True

    def _acknowledges(self, beacon: Beacon) -> bool:
        """Return whether the beacon shows that the command was applied."""
        if self._action in ("pause", "resume"):
            return beacon.paused is (self._action == "pause")
        return self._action != "stop" and beacon.acked_request == self._request_id


def open_control_client(
    address: str, credentials: Credentials | None, run: str, action: Action, *, clock: Clock, trainer: str | None = None
) -> tuple[ControlClient, SubscriberSockets]:
    """Return a control client and its link; close the link in the end."""
    link = SubscriberSockets(address, topics.ROUNDS + run, topics.BEACONS + run, credentials=credentials)
    signing = None if credentials is None else TrainerSigning(credentials)
    request_id = secrets.randbelow(2**53) + 1
    client = ControlClient(link, run, action, clock=clock, request_id=request_id, trainer=trainer, signing=signing)
    return client, link
