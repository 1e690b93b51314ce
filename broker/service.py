"""The broker's loop: take one event, route it, do what routing says. It decides nothing."""

from __future__ import annotations

from typing import assert_never

from fedmq.broker.access_control import KeyAccessControl
from fedmq.broker.routing import Allow, Deliver, Disconnect, Effect, Publish, Routing
from fedmq.security.admission import Admission
from fedmq.transport.link import EnrollmentRequest, Hub


class Broker:
    """A broker on a hub; `step` empties what has come."""

    wake_at: float | None = None

    def __init__(self, hub: Hub, access: KeyAccessControl | None = None, enrollment: Admission | None = None) -> None:
        self.done = False
        self.routing = Routing()
        self.taken = 0  # messages
        self._hub, self._access, self._enrollment = hub, access, enrollment

    @property
    def status(self) -> str:
        """See `loop.Service`."""
        return f"{len(self.routing.inboxes)} trainers, {len(self.routing.newest)} runs, {self.taken} messages"

    def step(self) -> None:
        """See `loop.Service`. An event's effects are done before the next is taken, as `Hub.allow` needs it."""
        if self._access is not None and self._access.refresh():
            self._hub.drop_connections()  # what a revoked one has subscribed to ends with its connection alone
        for traffic in self._hub.receive():
            self.taken += 1
            if isinstance(traffic, EnrollmentRequest):
                self._answer(traffic)
                continue
            for effect in self.routing.step(traffic):
                self._do(effect)

    def _answer(self, asked: EnrollmentRequest) -> None:
        if self._enrollment is not None and (frames := self._enrollment.answer(asked.key, asked.frames)) is not None:
            self._hub.answer(frames)

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Publish):
            self._hub.publish(effect.frames)
        elif isinstance(effect, Deliver):
            self._hub.deliver(effect.frames)
        elif isinstance(effect, Allow):
            self._hub.allow(effect.topic)
        elif isinstance(effect, Disconnect):
            self._hub.disconnect()
        else:
            assert_never(effect)

    def stop(self) -> None:
        """See `loop.Service`. Nothing in a broker is worth waiting for."""
        self.done = True
