"""The services as real processes for tests: start, kill, and wait for their output; all end with the test.

Every wait has a deadline and names what it waited for.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fedmq.deploy.processes import free_port

WAIT_S = 60.0  # far more than anything takes, on a machine with other work, too
POLL_S = 0.005
NOTICES = re.compile(r"^.*the broker at \S+ (does not answer yet; trying again|is connected)\n", re.MULTILINE)


def until(condition: Callable[[], Any], what: str, timeout_s: float = WAIT_S) -> None:
    """Return when `condition()` is true; fail with `what` after the timeout."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(POLL_S)


def clean_environment(**more: str) -> dict[str, str]:
    """Return this environment without settings of fedmq, with one thread for arrays."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **more}


def run_fedmq(*arguments: str, cwd: Path, timeout_s: float = WAIT_S, **more: str) -> subprocess.CompletedProcess[str]:
    """Run `fedmq ARGUMENTS` to its end, output in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "fedmq", *arguments],
        cwd=cwd,
        env=clean_environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )


def without_notices(err: str) -> str:
    """Return stderr without the two lines of a service whose broker takes a second to answer, on a busy machine."""
    return NOTICES.sub("", err)


def events_of(folder: Path) -> list[dict[str, Any]]:
    """Return the events of the run in `folder` from complete lines on disk."""
    path = folder / "events.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def closed(folder: Path) -> int:
    """Return the number of closed rounds of the run in `folder`."""
    return sum(one["event"] == "round-closed" for one in events_of(folder))


def report_of(folder: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


class Services:
    """Processes of `fedmq` around one broker's address, by name; their output is in files of `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.descriptors: tuple[int, int] | None = None  # soft and hard limit of the next processes

    def start(self, name: str, *arguments: str, **more: str) -> None:
        """Start `fedmq ARGUMENTS` with `more` in its environment; a second start of a name appends to its output."""
        limit = self.descriptors and ["prlimit", f"--nofile={self.descriptors[0]}:{self.descriptors[1]}"]
        with (self.folder / f"{name}.out").open("ab") as out, (self.folder / f"{name}.err").open("ab") as err:
            self.running[name] = subprocess.Popen(
                [*(limit or []), sys.executable, "-m", "fedmq", *arguments],
                cwd=self.folder,
                env=clean_environment(**{"FEDMQ_BROKER": self.address, "FEDMQ_PORT": str(self.port), **more}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def start_broker(self) -> None:
        """Start the broker and wait until it listens."""
        before = self.out("broker").count("broker on")
        self.start("broker", "broker")
        until(lambda: self.out("broker").count("broker on") > before, "the broker to listen")

    def start_trainer(self, name: str, data: str, *arguments: str) -> None:
        self.start(name, "trainer", "--name", name, "--data", data, *arguments)

    def out(self, name: str) -> str:
        """Return its stdout so far."""
        path = self.folder / f"{name}.out"
        return path.read_text() if path.exists() else ""

    def err(self, name: str) -> str:
        """Return its stderr so far."""
        path = self.folder / f"{name}.err"
        return path.read_text() if path.exists() else ""

    def kill(self, name: str) -> None:
        """Kill it, like a power cut."""
        self.running[name].kill()
        self.running[name].wait(WAIT_S)

    def terminate(self, name: str) -> None:
        self.running[name].send_signal(signal.SIGTERM)

    def wait(self, name: str, timeout_s: float = WAIT_S) -> int:
        """Wait for its end; return the exit code."""
        return self.running[name].wait(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait(WAIT_S)
