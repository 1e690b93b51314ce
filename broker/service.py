"""The broker's loop: take one event, route it, do what routing says. It decides nothing."""

from __future__ import annotations

import logging
from typing import assert_never

from broker.routing import Admit, Deliver, Publish, Routing
from fedmq.network import Hub, Subscribed

log = logging.getLogger(__name__)


class Broker:
    """A broker on a hub; `step` empties what has come."""

    wake_at: float | None = None

    def __init__(self, hub: Hub) -> None:
        self.done = False
        self.routing = Routing()
        self._hub = hub

    def step(self) -> None:
        """See `loop.Service`. An event's effects are done before the next is taken, as `Hub.admit` needs it."""
        for traffic in self._hub.receive():
            if isinstance(traffic, Subscribed):
                log.info("somebody subscribes to %s", traffic.topic)
            for effect in self.routing.step(traffic):
                if isinstance(effect, Publish):
                    self._hub.publish(effect.frames)
                elif isinstance(effect, Deliver):
                    self._hub.deliver(effect.frames)
                elif isinstance(effect, Admit):
                    self._hub.admit(effect.topic)
                else:
                    assert_never(effect)

    def stop(self) -> None:
        """See `loop.Service`. Nothing in a broker is worth waiting for."""
        self.done = True
