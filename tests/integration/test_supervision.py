"""The services as seen by systemd: what real processes send to it, and that a hanging one sends nothing."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from services import Services, clean_environment

from fedmq.runtime.journal import SOCKET

WATCHDOG_S = 1.0
DEADLINE_S = 60.0
HANGS = """
from fedmq.runtime.clock import SystemClock
from fedmq.runtime.loop import serve


class Hangs:
    done, wake_at, status, steps = False, 0.0, "", 0

    def step(self):
        self.steps += 1
        while self.steps > 100:
            pass

    def wait(self, timeout_s):
        pass

    wake = wait


hangs = Hangs()
serve(hangs, hangs, SystemClock())
"""


class Systemd:
    """The end of systemd: a socket for each service, and what came."""

    def __init__(self, folder: Path, name: str) -> None:
        self.lines: list[str] = []
        self.path = folder / f"{name}.notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": f"{WATCHDOG_S * 1e6:.0f}"}

    def until(self, pattern: str, timeout_s: float = DEADLINE_S) -> str:
        """The next line like `pattern`."""
        give_up_at = time.monotonic() + timeout_s
        while (left_s := give_up_at - time.monotonic()) > 0:
            if (line := self.next(left_s)) is not None and re.fullmatch(pattern, line):
                return line
        raise AssertionError(f"waited for {pattern} in vain, received {self.lines}")

    def next(self, timeout_s: float) -> str | None:
        """The next line, or None when none comes."""
        self._socket.settimeout(timeout_s)
        try:
            self.lines.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return None
        return self.lines[-1]

    def is_silent(self) -> bool:
        """Whether nothing comes for two times of the watchdog, once what had been sent is taken."""
        give_up_at = time.monotonic() + DEADLINE_S
        while time.monotonic() < give_up_at:
            if self.next(2 * WATCHDOG_S) is None:
                return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    """Processes that end with the test."""
    with Services(tmp_path) as running:
        yield running


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[dict[str, Systemd]]:
    """A socket for each of the three."""
    sockets = {name: Systemd(tmp_path, name) for name in ("broker", "trainer", "aggregator")}
    yield sockets
    for one in sockets.values():
        one.close()


def test_broker_notifies_systemd_until_it_is_stopped(services: Services, systemd: dict[str, Systemd]) -> None:
    heard = systemd["broker"]
    services.start("broker", "broker", **heard.environment)
    assert heard.next(DEADLINE_S) == "READY=1"
    heard.until("STATUS=0 trainers, 0 runs, 0 messages")
    for _ in range(3):
        heard.until("WATCHDOG=1")
    services.running["broker"].send_signal(signal.SIGSTOP)
    assert heard.is_silent()
    services.running["broker"].send_signal(signal.SIGCONT)
    heard.until("WATCHDOG=1")
    services.terminate("broker")
    heard.until("STOPPING=1")
    assert services.wait("broker") == 0


def test_all_services_send_a_status(services: Services, systemd: dict[str, Systemd]) -> None:
    services.start("trainer", "trainer", "--name", "alice", "--data", "xor:1/2", **systemd["trainer"].environment)
    systemd["trainer"].until("STATUS=the broker is not connected")
    services.start("broker", "broker", **systemd["broker"].environment)
    systemd["trainer"].until("STATUS=no run is published")
    words = (
        "--task",
        "xor",
        "--algorithm",
        "averaging",
        "--param",
        "learner=evolution",
        "--rounds",
        "100000",
        "--run",
        "xor-1",
        "--out",
        "run",
    )
    services.start("aggregator", "aggregator", *words, **systemd["aggregator"].environment)
    systemd["aggregator"].until(r"STATUS=round 1, waiting for trainers \(1 of 2\)")
    systemd["trainer"].until("STATUS=run xor-1, waiting for a round")
    (services.folder / "bob.csv").write_text("0,0,0\n0,0,1\n")  # which no model predicts right
    services.start_trainer("bob", "bob.csv")
    systemd["aggregator"].until(r"STATUS=round \d+, 2 trainers, best 0\.?\d*")
    systemd["trainer"].until(r"STATUS=round \d+ of run xor-1, (working|done|its result is not acknowledged yet)")
    systemd["broker"].until(r"STATUS=2 trainers, 1 runs, \d+ messages")
    services.terminate("aggregator")
    systemd["aggregator"].until("STOPPING=1")
    services.terminate("trainer")
    systemd["trainer"].until("STOPPING=1")


def test_hanging_step_sends_nothing(tmp_path: Path) -> None:
    heard = Systemd(tmp_path, "hangs")
    process = subprocess.Popen([sys.executable, "-c", HANGS], env=clean_environment(**heard.environment))
    try:
        assert heard.next(DEADLINE_S) == "READY=1"
        assert heard.is_silent()
        assert process.poll() is None
        assert "STOPPING=1" not in heard.lines
    finally:
        process.kill()
        process.wait(DEADLINE_S)
        heard.close()


def test_events_go_once_to_the_journal_and_not_to_stdout(services: Services, tmp_path: Path) -> None:
    """Stands in for the journal with a file: without the journal's socket, its lines come back to stderr."""
    services.start_broker()
    for name, data in (("alice", "xor:1/2"), ("bob", "xor:2/2")):
        services.start_trainer(name, data)
    both = tmp_path / "journal"
    with both.open("ab") as stream:
        status = os.fstat(stream.fileno())
        words = ("aggregator", "--task", "xor", "--seed", "1", "--out", "run")
        subprocess.run(
            [sys.executable, "-m", "fedmq", *words],
            cwd=tmp_path,
            env=clean_environment(FEDMQ_BROKER=services.address, JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}"),
            stdout=stream,
            stderr=stream,
            check=True,
            timeout=DEADLINE_S,
        )
    rounds = re.findall(r"^round +(\d+)", both.read_text(), flags=re.MULTILINE)
    assert len(rounds) == len(set(rounds))
    assert rounds or SOCKET.exists()  # a real journal has taken them
