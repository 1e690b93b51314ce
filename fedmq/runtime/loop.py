"""The loop that each service runs on: wait for the network or the next deadline, let the service take one step.

It decides nothing. SIGTERM and SIGINT ask the service to stop; a second one ends it at once. A service that is started
with SIGINT ignored, as a shell's background job is, keeps ignoring it. Each pass is a sign of life: for systemd, where
there is one, and for the pulse, where somebody feels it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

from fedmq.runtime.clock import Clock, earliest
from fedmq.runtime.systemd import Notifier

BEAT_S = 1.0  # a loop whose pulse is felt passes so often,
HANGS_S = 10.0  # and hangs when it has not for so long


class Service(Protocol):
    """Anything that moves in steps: receive, decide, save, send."""

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        ...

    @property
    def wake_at(self) -> float | None:
        """When to step at the latest, on the clock's `now`; None: only when something comes."""
        ...

    @property
    def status(self) -> str:
        """How it stands, for people, in one line."""
        ...

    def step(self) -> None:
        """Take what came and do what follows from it; never waits."""
        ...

    def stop(self) -> None:
        """Begin to end, in an orderly way."""
        ...


class Waitable(Protocol):
    """The end of a link that a loop sleeps on."""

    def wait(self, timeout_s: float | None) -> None:
        """Until something comes, `wake` is called, or the time is over."""
        ...

    def wake(self) -> None:
        """End a `wait`."""
        ...


class Pulse:
    """When a loop has last passed: beaten by it, felt from any thread. Before the first pass nothing hangs yet."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now()

    def beat(self) -> None:
        """The loop has passed."""
        self._at = self._now()

    @property
    def problem(self) -> str:
        """What is wrong with the loop, in words; "" when nothing is."""
        age_s = self._now() - self._at
        return "" if age_s < HANGS_S else f"the service has not moved for {age_s:.0f} s"


def stop_signals(*from_terminal: signal.Signals) -> list[signal.Signals]:
    """Return the signals that stop this process: SIGTERM, and those of `from_terminal` that its parent did not ignore.

    POSIX lets a shell start background jobs with SIGINT ignored, and nohup ignores SIGHUP: a program leaves that alone.
    """
    return [signal.SIGTERM, *(number for number in from_terminal if signal.getsignal(number) is not signal.SIG_IGN)]


def serve(
    service: Service,
    link: Waitable,
    clock: Clock,
    *,
    ready: Callable[[], None] | None = None,
    notifier: Notifier | None = None,
    pulse: Pulse | None = None,
) -> None:
    """Run `service` until it is done; `ready` is called once signals are heeded.

    `notifier` None: systemd's, if it is there. `pulse` None: nobody feels it.
    """
    notifier = notifier or Notifier(os.environ)
    asked = told = False

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:  # a second one ends it at once
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        asked = True  # the service may be in the middle of a step: it is told between two
        link.wake()

    for number in stop_signals(signal.SIGINT):
        signal.signal(number, on_signal)
    if ready is not None:
        ready()
    notifier.ready()
    service.step()
    while not service.done:
        notifier.passed(clock.now(), lambda: service.status)
        beat_at = None
        if pulse is not None:
            pulse.beat()
            beat_at = clock.now() + BEAT_S
        wake_at = earliest(service.wake_at, notifier.wake_at, beat_at)
        link.wait(None if wake_at is None else wake_at - clock.now())
        if asked and not told:
            told = True
            notifier.stopping()
            service.stop()
        service.step()
    notifier.stopping()
