"""The services as child processes of this one, on this machine's loopback address.

Knows how to start and end them, nothing of what they do.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from fedmq.transport.address import PORTS

CANDIDATES = range(10_000, 32_000)  # below those that the kernel takes for connections that go out at any moment
STOP_S = 6.0  # after SIGTERM; a service needs at most 5
_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def free_port() -> int:
    """The first of five consecutive loopback ports that nobody uses now."""
    while True:
        first = secrets.choice(CANDIDATES)
        if all(_is_free(first + offset) for offset in range(PORTS)):
            return first


def listens(port: int) -> bool:
    """Whether somebody takes connections at this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Processes:
    """Services that live as long as a `with` block; what is left at its end is stopped, and killed if it must be."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str, quiet: bool = True) -> subprocess.Popen[bytes]:
        """Start `fedmq ARGUMENTS` under `name`; its output goes nowhere when `quiet`, its errors to ours.

        It has a process group of its own: Ctrl-C reaches this process alone, which then asks it once to stop. Asked by
        both, it would end at once. When this process is killed, the kernel asks in its place.
        """
        libc = ctypes.CDLL(None)  # found before the fork
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        environment.pop("FEDMQ_CONFIG", None)  # it is the caller's, and the services know other options
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedmq", *arguments],
            stdout=subprocess.DEVNULL if quiet else None,
            stdin=subprocess.DEVNULL,
            env=environment,
            process_group=0,
            preexec_fn=lambda: libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM),
        )
        self.running[name] = process
        return process

    def dead(self) -> list[str]:
        """The names of those that have ended."""
        return [name for name, process in self.running.items() if process.poll() is not None]

    def stop(self) -> None:
        """SIGTERM to all, to an aggregator and a broker last, which others wait for; SIGKILL to what stays for long."""
        last = ("aggregator", "broker")
        for group in ([name for name in self.running if name not in last], *([name] for name in last)):
            _end([self.running[name] for name in group if name in self.running and self.running[name].poll() is None])
        self.running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    stop_by = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.0, stop_by - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
