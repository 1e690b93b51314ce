"""The parts of a federation as processes behind proxies: how each is started, ended, paused and looked at.

Knows nothing of schedules or verdicts.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
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
FIRST_PORT, LAST_PORT = 12_000, 30_000  # below the ports of outgoing connections: none can take a dead broker's
YOUNG_S = 5.0  # a signal in the first seconds of a life may come before it is heeded
PR_SET_PDEATHSIG = 1


def find_ports(generator: np.random.Generator, count: int) -> list[int]:
    """The first ones of `count` groups of consecutive loopback ports that nobody uses now."""
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
    """Called in a child: the kernel kills it when its parent is gone, however that ended."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def environment() -> dict[str, str]:
    """Ours, without settings of fedmq, and with one thread for arrays."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


async def run_fedmq(folder: Path, *arguments: str, timeout_s: float = 60.0) -> tuple[int, str, str]:
    """Exit code, output and errors of `fedmq ARGUMENTS`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "fedmq", *arguments),
        cwd=folder,
        env=environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        preexec_fn=die_with_parent,
        start_new_session=True,  # a signal to the harness and its group is not meant for them
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), timeout_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        return -1, "", f"it did not end within {timeout_s:g} s"
    return int(process.returncode or 0), out.decode(), errors.decode()


class Service:
    """One part: its command, the process of its present life, and its logs over all lives.

    Whoever does something to it holds its `lock`; who finds it dead without the lock being held has found a bug.
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
        """Of its present life; None between two."""
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code of a life that has ended."""
        return None if self._process is None else self._process.returncode

    @property
    def age_s(self) -> float:
        """How long its present life has lasted."""
        return time.monotonic() - self._started_at

    async def start(self) -> None:
        """Begin its next life."""
        self.lives += 1
        self._started_at = time.monotonic()
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "fedmq", *self.arguments, "--log-level", "info"),
                cwd=self._folder,
                env=environment(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=die_with_parent,
                start_new_session=True,  # a signal to the harness and its group is not meant for them
            )

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        if self.pid is not None:
            os.kill(self.pid, number)

    async def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None when it still lives after `timeout_s`."""
        assert self._process is not None
        try:
            return await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            return None

    async def kill(self) -> None:
        """As a power cut would."""
        self.send(signal.SIGKILL)
        await self.wait(10.0)

    def error_lines(self, since: int) -> list[str]:
        """The lines of its errors from byte `since` on that are no log records."""
        lines = self.err.read_bytes()[since:].decode(errors="replace").splitlines()
        return [line for line in lines if not (line[:1].isdigit() and (" INFO " in line or " WARNING " in line))]


class Federation:
    """A broker, an aggregator and five trainers, each of which reaches the broker through a proxy of its own."""

    def __init__(self, folder: Path, run_folder: Path, task: Path, seed: int, rounds: int) -> None:
        generator = np.random.default_rng()  # which ports are free is not for a seed to say
        self.folder, self.run_folder = folder, run_folder
        port, *ports = find_ports(generator, 1 + len(EDGES))
        self.proxies = {name: Proxy(own, port, PORTS) for name, own in zip(EDGES, ports, strict=True)}
        self.services = {BROKER: Service(BROKER, folder, ["broker", "--port", str(port)])}
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
                own = ["aggregator", "--task", str(task), "--strategy", "fedsgd", "--seed", str(seed)]
                own += ["--rounds", str(rounds), "--min-trainers", str(MIN_TRAINERS), "--run", "chaos"]
                own += ["--out", str(run_folder)]
            own += ["--broker", f"tcp://127.0.0.1:{self.proxies[name].port}"]
            self.services[name] = Service(name, folder, own)

    async def start(self) -> None:
        """Start everything."""
        for proxy in self.proxies.values():
            await proxy.start()
        for service in self.services.values():
            await service.start()

    async def stop(self) -> None:
        """Kill everything; no process and no port is left."""
        for service in self.services.values():
            if service.pid is not None:
                await service.kill()
        for proxy in self.proxies.values():
            await proxy.stop()


async def until(condition: Callable[[], bool], timeout_s: float, every_s: float = 0.05) -> bool:
    """Whether `condition()` became true in time."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at:
            return False
        await asyncio.sleep(every_s)
    return True
