"""Notifications to systemd on a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmq.runtime.systemd import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of systemd."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield end


def heard(systemd: socket.socket) -> list[str]:
    """Return what was received since the last call; local datagrams are delivered at once."""
    lines = []
    while True:
        try:
            lines.append(systemd.recv(4096).decode())
        except BlockingIOError:
            return lines


def environment(systemd: socket.socket, **more: str) -> dict[str, str]:
    name = systemd.getsockname()
    address = "@" + name[1:].decode() if isinstance(name, bytes) else name
    return {"NOTIFY_SOCKET": address, **more}


def test_readiness_and_stop_are_notified_once(systemd: socket.socket) -> None:
    notifier = Notifier(environment(systemd))
    notifier.ready()
    notifier.stopping()
    notifier.stopping()
    assert heard(systemd) == ["READY=1", "STOPPING=1"]


def test_abstract_socket_address_is_supported() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(f"\0fedmq-test-{os.getpid()}")
        end.setblocking(False)
        Notifier(environment(end)).ready()
        assert heard(end) == ["READY=1"]


def test_watchdog_is_fed_at_half_its_interval(systemd: socket.socket) -> None:
    notifier = Notifier(environment(systemd, WATCHDOG_USEC="10000000", WATCHDOG_PID=str(os.getpid())))
    for now in (0.0, 1.0, 4.9, 5.0, 5.1, 30.0):
        notifier.passed(now, lambda: "")
        assert notifier.wake_at is not None
        assert notifier.wake_at <= now + 5.0
    assert heard(systemd).count("WATCHDOG=1") == 3


@pytest.mark.parametrize(
    "watchdog",
    [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
    ids=str,
)
def test_watchdog_of_another_process_is_not_fed(systemd: socket.socket, watchdog: dict[str, str]) -> None:
    notifier = Notifier(environment(systemd, **watchdog))
    notifier.passed(0.0, lambda: "at rest")
    assert heard(systemd) == ["STATUS=at rest"]
    assert notifier.wake_at is None


def test_changed_status_is_sent_at_most_once_a_second(systemd: socket.socket) -> None:
    notifier = Notifier(environment(systemd))
    for now, status in ((0.0, "one"), (0.1, "two"), (0.2, "three"), (1.0, "three"), (5.0, "three")):
        notifier.passed(now, lambda status=status: status)  # type: ignore[misc]
    assert heard(systemd) == ["STATUS=one", "STATUS=three"]


def test_delayed_status_wakes_the_loop_once(systemd: socket.socket) -> None:
    notifier = Notifier(environment(systemd))
    notifier.passed(0.0, lambda: "one")
    assert notifier.wake_at is None
    notifier.passed(0.5, lambda: "two")
    assert notifier.wake_at == 1.0
    notifier.passed(1.0, lambda: "two")
    assert notifier.wake_at is None


def test_a_status_is_one_line(systemd: socket.socket) -> None:
    Notifier(environment(systemd)).passed(0.0, lambda: "one\nREADY=1")
    assert heard(systemd) == ["STATUS=one READY=1"]


def test_without_systemd_no_status_is_computed() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    notifier.ready()
    notifier.passed(0.0, lambda: pytest.fail("asked"))
    notifier.stopping()
    assert notifier.wake_at is None


def test_missing_systemd_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready()
    assert "READY" in caplog.text
