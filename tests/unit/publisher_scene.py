"""A run's event publisher, for tests of what observers get."""

from __future__ import annotations

from fedmq.aggregator.event_publisher import EventPublisher
from fedmq.aggregator.outbox import Outbox
from fedmq.observe.events import AnyEvent
from fedmq.observe.run_state import RunState
from fedmq.protocol.codec import Frames, decode, unsigned
from fedmq.protocol.messages import Message
from fedmq.testing import run_config


class Publisher:
    """Reports events, and returns the messages that leave for observers."""

    def __init__(self, run_state: RunState | None = None) -> None:
        self.run_state = RunState() if run_state is None else run_state
        self._outbox = Outbox(run_config("one"), 1, None, unsigned)
        self._publisher = EventPublisher(self._outbox, run_config("one").task, self.run_state)

    @property
    def wake_at(self) -> float | None:
        return self._publisher.wake_at

    def report(self, at: float, event: AnyEvent) -> None:
        self._publisher.report(event)
        self._publisher.apply(at)
        self._outbox.take(at)

    def on_broker(self) -> None:
        self._publisher.on_broker()

    def due(self, now: float, *, last: bool = False) -> list[Frames]:
        self._publisher.publish(now, last=last)
        return self._outbox.take(0.0).sends

    def kinds(self, now: float, *, last: bool = False) -> list[type[Message]]:
        return [type(decode(frames).message) for frames in self.due(now, last=last)]
