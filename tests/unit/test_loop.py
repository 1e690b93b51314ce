"""The loop of services: when it wakes, and what it sends to systemd."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmq.runtime.loop import BEAT_S, HANGS_S, Pulse, serve
from fedmq.runtime.systemd import Notifier


class Counting:
    """A service that ends after a number of steps, with its own clock and link; each wait lasts until its timeout."""

    def __init__(self, steps: int, *, signal_at: int | None = None, number: signal.Signals = signal.SIGTERM) -> None:
        self.steps, self.stopped, self.reloads, self._number = 0, False, 0, number
        self.waits: list[float | None] = []
        self.wake_at: float | None = None
        self._last, self._signal_at, self._now = steps, signal_at, 0.0

    @property
    def done(self) -> bool:
        return self.stopped or self.steps >= self._last

    @property
    def status(self) -> str:
        return f"step {self.steps}"

    def step(self) -> None:
        self.steps += 1

    def stop(self) -> None:
        self.stopped = True

    def reload(self) -> None:
        self.reloads += 1

    def wait(self, timeout_s: float | None) -> None:
        self.waits.append(timeout_s)
        self._now += timeout_s or 0.0
        if self.steps == self._signal_at:
            os.kill(os.getpid(), self._number)

    def wake(self) -> None:
        pass

    def now(self) -> float:
        return self._now

    def wall(self) -> float:
        return 0.0


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Restore signal handlers after the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def told(service: Counting, folder: Path, **environment: str) -> list[str]:
    """Return what systemd receives while `service` runs."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(folder / "notify"))
        end.settimeout(0)
        serve(service, service, service, notifier=Notifier({"NOTIFY_SOCKET": str(folder / "notify"), **environment}))
        lines = []
        while True:
            try:
                lines.append(end.recv(4096).decode())
            except BlockingIOError:
                return lines


def test_idle_service_feeds_the_watchdog_in_time(tmp_path: Path) -> None:
    service = Counting(4)
    lines = told(service, tmp_path, WATCHDOG_USEC="8000000")
    assert service.waits == [4.0, 4.0, 4.0]
    assert lines.count("WATCHDOG=1") == 3


def test_service_wakes_at_its_own_earlier_time(tmp_path: Path) -> None:
    service = Counting(2)
    service.wake_at = 0.25
    told(service, tmp_path, WATCHDOG_USEC="8000000")
    assert service.waits == [0.25]


def test_without_systemd_the_loop_has_no_timeout() -> None:
    service = Counting(3)
    serve(service, service, service, notifier=Notifier({}))
    assert service.waits == [None, None]


def test_notifications_of_a_service_are_in_order(tmp_path: Path) -> None:
    assert told(Counting(2), tmp_path) == ["READY=1", "STATUS=step 1", "STOPPING=1"]


def test_signal_is_notified_as_stopping(tmp_path: Path) -> None:
    service = Counting(100, signal_at=3)
    lines = told(service, tmp_path)
    assert service.stopped
    assert service.steps == 4
    assert lines[-1] == "STOPPING=1"


def test_sigint_that_was_ignored_at_the_start_stays_ignored_and_sigterm_stops() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    service = Counting(100, signal_at=3)

    serve(service, service, service, notifier=Notifier({}))

    assert (service.stopped, service.steps) == (True, 4)
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_hangup_reloads_once_and_the_service_continues() -> None:
    service = Counting(6, signal_at=3, number=signal.SIGHUP)
    serve(service, service, service, reload=service.reload, notifier=Notifier({}))
    assert (service.reloads, service.steps, service.stopped) == (1, 6, False)


def test_hangup_that_was_ignored_at_the_start_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    service = Counting(6, signal_at=3, number=signal.SIGHUP)
    serve(service, service, service, reload=service.reload, notifier=Notifier({}))
    assert (service.reloads, service.steps) == (0, 6)


def test_loop_with_a_pulse_beats_in_time() -> None:
    service = Counting(20)
    pulse = Pulse(service.now)
    service.wait(HANGS_S)
    assert pulse.problem == "the service has not moved for 10 s"

    serve(service, service, service, pulse=pulse)

    assert set(service.waits[1:]) == {BEAT_S}
    assert service.now() > HANGS_S + BEAT_S
    assert pulse.problem == ""
