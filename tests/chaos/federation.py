"""The services of a federation as processes behind proxies: start, stop, pause and inspect them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from proxy import Proxy
from schedule import AGGREGATOR, BROKER, EDGES, TRAINERS
from training import SCORE_BITS

from fedmq.transport.address import PORTS

MIN_TRAINERS = 3
FIRST_PORT, LAST_PORT = 12_000, 30_000  # below the ephemeral ports, which could take a dead broker's port
YOUNG_S = 5.0  # a signal in the first seconds may arrive before its handler is installed
PR_SET_PDEATHSIG = 1
DESCRIPTORS = 256  # of the broker: few enough that connections use them up


def find_ports(generator: np.random.Generator, count: int) -> list[int]:
    """Return the first port of `count` groups of consecutive free loopback ports."""
    firsts = generator.permutation(np.arange(FIRST_PORT, LAST_PORT, PORTS))
    free = (int(first) for first in firsts if all(_is_free(int(first) + offset) for offset in range(PORTS)))
    return [next(free) for _ in range(count)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def die_with_parent() -> None:
    """Run in a child: the kernel kills it when its parent ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def with_few_descriptors() -> None:
    """Run in a child: as `die_with_parent`, and limit its descriptors."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))


def environment() -> dict[str, str]:
    """Return our environment without settings of fedmq, and with one BLAS thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


async def run_fedmq(folder: Path, *arguments: str, timeout_s: float = 60.0) -> tuple[int, str, str]:
    """Return exit code, output and errors of `fedmq ARGUMENTS`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "fedmq", *arguments),
        cwd=folder,
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent,
        start_new_session=True,  # signals to the group of the harness do not reach it
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        return -1, "", f"not finished within {timeout_s:g} s"
    return int(process.returncode or 0), out.decode(), errors.decode()


class Service:
    """One service: its command, its current process, and its logs over all lives.

    A fault holds `lock` while it works on the service; a service that is dead while the lock is free is a bug.
    """

    def __init__(self, name: str, folder: Path, arguments: list[str]) -> None:
        self.name, self.arguments, self.lives = name, arguments, 0
        self.lock = asyncio.Lock()
        self.out, self.err = folder / f"{name}.out", folder / f"{name}.err"
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None
        self._started_at = 0.0

    @property
    def pid(self) -> int | None:
        """Return the id of the current process, None if it has ended."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def code(self) -> int | None:
        """Return the exit code of an ended process."""
        return None if self._process is None else self._process.returncode

    @property
    def age_s(self) -> float:
        """Return the time since the last start, without pauses."""
        return time.monotonic() - self._started_at

    def paused(self, seconds: float) -> None:
        """Register that the process was stopped for so long."""
        self._started_at += seconds

    async def start(self) -> None:
        """Start a new process."""
        self.lives += 1
        self._started_at = time.monotonic()
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "fedmq", *self.arguments, "--log-level", "info"),
                cwd=self._folder,
                env=environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=with_few_descriptors if self.name == BROKER else die_with_parent,
                start_new_session=True,  # signals to the group of the harness do not reach it
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to a running process."""
        if self.pid is not None:
            os.kill(self.pid, number)

    async def wait(self, timeout_s: float) -> int | None:
        """Return the exit code, or None if the process still runs after `timeout_s`."""
        assert self._process is not None
        try:
            return await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            return None

    async def kill(self) -> None:
        """Send SIGKILL and wait."""
        self.send(signal.SIGKILL)
        await self.wait(10.0)

    def error_lines(self, since: int) -> list[str]:
        """Return the lines of stderr from byte `since` on that are not log records."""
        lines = self.err.read_bytes()[since:].decode(errors="replace").splitlines()
        return [line for line in lines if not (line[:1].isdigit() and (" INFO " in line or " WARNING " in line))]


class Federation:
    """A broker, an aggregator and five trainers; each of these connects to the broker through its own proxy."""

    def __init__(self, folder: Path, run_folder: Path, task: Path, seed: int, rounds: int) -> None:
        generator = np.random.default_rng()  # free ports do not depend on the seed
        self.folder, self.run_folder = folder, run_folder
        self.port, *ports = find_ports(generator, 1 + len(EDGES))
        self.proxies = {name: Proxy(own, self.port, PORTS) for name, own in zip(EDGES, ports, strict=True)}
        self.services = {BROKER: Service(BROKER, folder, ["broker", "--port", str(self.port)])}
        for name in EDGES:
            if name != AGGREGATOR:
                part = TRAINERS.index(name) + 1
                own = [
                    "trainer",
                    "--name",
                    name,
                    "--data",
                    f"{task}:{part}/{len(TRAINERS)}",
                    "--score-bits",
                    str(SCORE_BITS),
                ]
                own += ["--state", str(folder / f"{name}.state")]
            else:
                own = ["aggregator", "--task", str(task), "--algorithm", "averaging", "--seed", str(seed)]
                own += ["--rounds", str(rounds), "--min-trainers", str(MIN_TRAINERS), "--run", "chaos"]
                own += ["--out", str(run_folder)]
            own += ["--broker", f"tcp://127.0.0.1:{self.proxies[name].port}"]
            self.services[name] = Service(name, folder, own)

    async def start(self) -> None:
        """Start all proxies and services."""
        for proxy in self.proxies.values():
            await proxy.start()
        for service in self.services.values():
            await service.start()

    async def stop(self) -> None:
        """Kill all services and close all ports."""
        for service in self.services.values():
            if service.pid is not None:
                await service.kill()
        for proxy in self.proxies.values():
            await proxy.stop()


async def until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Wait for `condition()`; return whether it became true in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(every_s)
    return True
