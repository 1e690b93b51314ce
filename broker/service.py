"""The broker's loop: receive an event, step the rules, apply their effects."""

import logging
from typing import assert_never

from fedmq.broker.access_control import KeyAccessControl
from fedmq.broker.routing import Allow, Deliver, Disconnect, Effect, Publish, Routing
from fedmq.runtime.clock import Clock
from fedmq.security.admission import Admission
from fedmq.transport.link import EnrollmentRequest, Hub

log = logging.getLogger(__name__)


class Broker:
    """A broker on a hub; see `loop.Service`."""

    def __init__(
        self, hub: Hub, clock: Clock, access: KeyAccessControl | None = None, admission: Admission | None = None
    ) -> None:
        self.done = False
        self.routing = Routing()
        self.received = 0  # messages
        self._hub, self._clock, self._access, self._admission = hub, clock, access, admission

    @property
    def wake_at(self) -> float | None:
        return self.routing.wake_at

    @property
    def status(self) -> str:
        return f"{len(self.routing.inboxes)} trainers, {len(self.routing.newest)} runs, {self.received} messages"

    def step(self) -> None:
        """See `loop.Service`. Applies all effects of an event before the next one, as `Hub.allow` requires."""
        if self._access is not None and (removed := self._access.refresh()):
            # The subscriptions of a revoked key end only with its connection.
            self._hub.disconnect_keys({public.transport for public in removed})
        for message in self._hub.receive():
            self.received += 1
            if isinstance(message, EnrollmentRequest):
                if self._admission and (answer := self._admission.answer(message.key, message.frames)) is not None:
                    self._hub.answer(answer)
                continue
            for effect in self.routing.step(message):
                self._apply(effect)
        for effect in self.routing.hand_over(self._clock.now()):
            self._apply(effect)

    def _apply(self, effect: Effect) -> None:
        match effect:
            case Publish(frames):
                self._hub.publish(frames)
            case Deliver(frames):
                self._hub.deliver(frames)
            case Allow(topic):
                self._hub.allow(topic)
            case Disconnect(violation):
                self._hub.disconnect(violation=violation)
            case _:
                assert_never(effect)

    def reload(self) -> None:
        """Note that nothing is to do: members, requests and tokens are read as they change."""
        log.warning("members are read as they change; other settings and the broker's own key need a restart")

    def stop(self) -> None:
        self.done = True
