"""A trainer's worker on virtual time."""

from collections.abc import Callable
from typing import Generic, TypeVar

from fedmq.protocol.codec import Packet
from fedmq.simulation.network import Simulation

Outcome = TypeVar("Outcome")


class VirtualWorker(Generic[Outcome]):
    """A trainer's worker on virtual time: the outcome is ready after `duration_s()`."""

    def __init__(
        self,
        simulation: Simulation,
        name: str,
        perform: Callable[[Packet, Callable[[], bool]], Outcome | None],
        duration_s: Callable[[], float],
    ) -> None:
        self._simulation, self._name = simulation, name
        self._perform, self._duration_s = perform, duration_s
        self._job = 0
        self._done: list[Outcome] = []

    def start(self, packet: Packet) -> None:
        self._job += 1
        job = self._job

        def finish() -> None:
            if job == self._job and (outcome := self._perform(packet, lambda: False)) is not None:
                self._done.append(outcome)
                self._simulation.step(self._name)

        self._simulation.at(self._simulation.clock.now() + self._duration_s(), finish)

    def cancel(self) -> None:
        self._job += 1

    def refresh(self) -> None:
        """Do nothing: rows in memory do not change."""

    def done(self) -> list[Outcome]:
        done, self._done = self._done, []
        return done
