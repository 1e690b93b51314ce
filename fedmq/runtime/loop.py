"""The loop of every service: wait for the network or the next deadline, then let the service take one step.

SIGTERM and SIGINT stop the service cleanly; a second signal ends the process at once. SIGHUP, which a closed terminal
and `systemctl reload` send, makes a service that can reload do so. A service that is started with SIGINT or SIGHUP
ignored, like a background job of a shell, keeps ignoring it. Each iteration feeds systemd's watchdog and the
pulse.
"""

import os
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import Protocol

from fedmq.runtime.clock import Clock, earliest
from fedmq.runtime.systemd import Notifier

BEAT_S = 1.0  # longest wait of a loop with a pulse
HANGS_S = 10.0  # without an iteration, then the loop counts as hanging


class Node(Protocol):
    """Works in steps: receive, decide, save, send."""

    @property
    def done(self) -> bool:
        """Whether the service has ended."""

    @property
    def wake_at(self) -> float | None:
        """Time of the next step on the clock's `now`; None: only when something is received."""

    def step(self) -> None:
        """Process everything that was received, without waiting."""

    def stop(self) -> None:
        """Begin a clean stop."""


class Service(Node, Protocol):
    """A node that a process runs."""

    @property
    def status(self) -> str:
        """The state for people, in one line."""


class Waitable(Protocol):
    """The link that a loop waits on."""

    def wait(self, timeout_s: float | None) -> None:
        """Wait until something is received, `wake` is called, or the time is over."""

    def wake(self) -> None:
        """End a `wait`."""


class Pulse:
    """The time of a loop's last iteration; readable from any thread. Before the first one the loop does not hang."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = now()

    def beat(self) -> None:
        self._at = self._now()

    @property
    def problem(self) -> str:
        """What is wrong with the loop, for people; "" if nothing is."""
        age_s = self._now() - self._at
        return "" if age_s < HANGS_S else f"the service has not moved for {age_s:.0f} s"


def stop_signals(*from_terminal: signal.Signals) -> list[signal.Signals]:
    """Return the signals that stop this process: SIGTERM, and those of `from_terminal` that its parent did not ignore.

    POSIX lets a shell start background jobs with SIGINT ignored, and nohup ignores SIGHUP: a program leaves that alone.
    """
    return [signal.SIGTERM, *(number for number in from_terminal if signal.getsignal(number) is not signal.SIG_IGN)]


class _Signals:
    """What signals have asked for: the service may be in the middle of a step, so the loop does it after that."""

    def __init__(self, wake: Callable[[], None], *, can_reload: bool) -> None:
        self.stop = self.reload = False
        self._wake = wake
        for number in stop_signals(signal.SIGINT):
            signal.signal(number, self._on_stop)
        if can_reload and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_hangup)

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        if self.stop:  # the second signal
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.stop = True
        self._wake()

    def _on_hangup(self, _number: int, _frame: FrameType | None) -> None:
        self.reload = True
        self._wake()


def serve(
    service: Service,
    link: Waitable,
    clock: Clock,
    *,
    ready: Callable[[], None] | None = None,
    reload: Callable[[], None] | None = None,
    notifier: Notifier | None = None,
    pulse: Pulse | None = None,
) -> None:
    """Run `service` until it is done; call `ready` once signal handlers are set, and `reload` after each SIGHUP.

    `notifier` None: the one of the environment. `reload` None: SIGHUP ends the process.
    """
    notifier = notifier or Notifier(os.environ)
    signals, stopped = _Signals(link.wake, can_reload=reload is not None), False
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
        if signals.stop and not stopped:
            stopped = True
            notifier.stopping()
            service.stop()
        if signals.reload and reload is not None:
            signals.reload = False
            reload()
        service.step()
    notifier.stopping()
