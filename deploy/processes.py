"""Start and stop services as child processes, on this machine's loopback address."""

import ctypes
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Self

from fedmq.transport.address import PORTS

CANDIDATES = range(10_000, 32_000)  # below the ephemeral ports of outgoing connections
STOP_S = 6.0  # after SIGTERM; a service needs at most 5
FOR_ALL = ("FEDMQ_LOG_LEVEL", "FEDMQ_DEBUG")  # settings of this command and of its services
_PARENT_DEATH_SIGNAL = 1  # prctl(2)


def free_port() -> int:
    """Return the first of five consecutive loopback ports that are free now."""
    while True:
        first = secrets.choice(CANDIDATES)
        if all(_is_free(first + offset) for offset in range(PORTS)):
            return first


def listens(port: int) -> bool:
    """Return whether a process accepts connections at this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a service, without settings: those in ours are for this command, or for others."""
    kept = {name: value for name, value in ours.items() if name in FOR_ALL or not name.startswith("FEDMQ_")}
    return {**kept, "PYTHONUNBUFFERED": "1"}


class Processes:
    """Services that run inside a `with` block; at its end the rest is stopped, and killed after STOP_S."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str, quiet: bool = True) -> subprocess.Popen[bytes]:
        """Start `fedmq ARGUMENTS` under `name`; `quiet` discards its output, errors go to our stderr.

        It has its own process group, so that Ctrl-C reaches this process only, which stops it once: a second signal
        would end it at once. If this process is killed, the kernel sends SIGTERM.
        """
        libc = ctypes.CDLL(None)  # loaded before the fork
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fedmq", *arguments],
            stdout=subprocess.DEVNULL if quiet else None,
            stdin=subprocess.DEVNULL,
            env=_environment(os.environ),
            process_group=0,
            preexec_fn=lambda: libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGTERM),
        )
        self.running[name] = process
        return process

    def exited(self) -> list[str]:
        return [name for name, process in self.running.items() if process.poll() is not None]

    def stop(self) -> None:
        """Send SIGTERM, to the aggregator and the broker last; send SIGKILL after STOP_S."""
        last = ("aggregator", "broker")
        for group in ([name for name in self.running if name not in last], *([name] for name in last)):
            processes = [self.running[name] for name in group if name in self.running]
            for process in processes:
                process.terminate()
            stop_by = time.monotonic() + STOP_S
            for process in processes:
                try:
                    process.wait(max(0.0, stop_by - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.running.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()
