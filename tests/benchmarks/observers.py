"""Benchmark: rounds of one run with ten observers, compared with its rounds without.

Run it: `python tests/benchmarks/observers.py [--json] [--turns N]`. Five observers are connected to the broker, as
`fedmq watch` is; five read the streams of a page. Phases with and without observers alternate in one endless run; the
result is the ratio of the medians. Exit code 1 if the target is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, and inherited by the services

import argparse
import http.client
import json
import multiprocessing
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from multiprocessing.synchronize import Event, Semaphore
from pathlib import Path
from typing import NamedTuple

from fedmq.dashboard.live_runs import open_live_runs
from fedmq.deploy.processes import Processes, free_port
from fedmq.runtime.clock import SystemClock
from fedmq.runtime.run_folder import EVENTS

TASK = """
from fedmq import Linear, Task
task = Task(name="endless", model=Linear(2), loss="squared-error", metric="loss", target=0.0, rounds=1000000)
"""
RUN = "observed"
WATCHES = PAGES = 5
TURN_S = 5.0
WAIT_S = 30.0
RATIO_MAX = 1.10


class Outcome(NamedTuple):
    """One line of the table: over all rounds of all turns."""

    observers: int
    rounds: int
    median_ms: float
    p95_ms: float


def watch(address: str, number: int, attached: Semaphore, stopping: Event) -> None:
    """Run this number of observers in one process; release `attached` for each that has the state of the run."""
    clock = SystemClock()
    watchers = [open_live_runs(address, None, clock=clock)[:2] for _ in range(number)]
    waiting = set(range(number))
    while not stopping.is_set():
        for index, (watching, link) in enumerate(watchers):
            link.wait(0.02 if index == 0 else 0.0)
            watching.step()
            if index in waiting and RUN in watching.runs:
                waiting.remove(index)
                attached.release()
    for _, link in watchers:
        link.close()


def read_stream(port: int, attached: threading.Semaphore, stopping: threading.Event) -> None:
    """Read the stream of a page."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    connection.request("GET", f"/api/runs/{RUN}/stream")
    answer = connection.getresponse()
    complete = False
    while not stopping.is_set():
        if answer.readline().startswith(b"event: full") and not complete:
            complete = True
            attached.release()
    connection.close()


@contextmanager
def observers(address: str) -> Iterator[None]:
    """Attach ten observers; detach them at the end."""
    context = multiprocessing.get_context("spawn")
    attached, stopping = context.Semaphore(0), context.Event()
    read, ending = threading.Semaphore(0), threading.Event()
    port = free_port()
    watcher = context.Process(target=watch, args=(address, WATCHES, attached, stopping), daemon=True)
    pages = [threading.Thread(target=read_stream, args=(port, read, ending), daemon=True) for _ in range(PAGES)]
    with Processes() as processes:
        watcher.start()
        processes.start("dashboard", "dashboard", "--broker", address, "--port", str(port), "--runs", "none")
        until(lambda: answers(port), "the dashboard to answer")
        for page in pages:
            page.start()
        for semaphore, number in ((attached, WATCHES), (read, PAGES)):
            for _ in range(number):
                if not semaphore.acquire(timeout=WAIT_S):
                    raise SystemExit(f"expected ten observers with the state of the run within {WAIT_S:g} s, got fewer")
        try:
            yield
        finally:
            stopping.set()
            ending.set()
            for page in pages:
                page.join(WAIT_S)
            watcher.join(WAIT_S)
            watcher.kill()


def answers(port: int) -> bool:
    """Return whether the dashboard lists the run."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    try:
        connection.request("GET", "/api/runs")
        return RUN.encode() in connection.getresponse().read()
    except OSError:
        return False
    finally:
        connection.close()


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for the condition; exit if it does not hold in time."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"expected {what} within {WAIT_S:g} s")
        time.sleep(0.05)


def rounds_between(path: Path, began: float, ended: float) -> list[float]:
    """Return the seconds between consecutive publications in that time."""
    published = []
    with path.open("rb") as lines:
        for line in lines:
            if b'"round-published"' in line and line.endswith(b"\n"):
                at = json.loads(line)["at"]
                if began <= at <= ended:
                    published.append(at)
    return [after - before for before, after in pairwise(published)]


def measure(turns: int) -> list[Outcome]:
    """Measure both phases in turns, in one run."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="observers-")))
        processes = stack.enter_context(Processes())
        port = free_port()
        address = f"tcp://127.0.0.1:{port}"
        task, run = folder / "endless.py", folder / RUN
        task.write_text(TASK)
        processes.start("broker", "broker", "--port", str(port))
        wanted = ("--task", str(task), "--min-trainers", "2", "--run", RUN, "--out", str(run), "--quiet")
        processes.start("aggregator", "aggregator", *wanted, "--broker", address)
        for part in (1, 2):
            data = ("--data", f"linear:{part}/2", "--min-rows", "1")
            processes.start(f"t{part}", "trainer", "--name", f"t{part}", *data, "--broker", address)
        path = run / EVENTS
        until(lambda: path.exists() and b'"round":100,' in path.read_bytes(), "a hundred rounds")
        found: dict[int, list[float]] = {0: [], WATCHES + PAGES: []}
        for _ in range(turns):
            for number, rounds in found.items():
                with observers(address) if number else ExitStack():
                    began = time.time()
                    time.sleep(TURN_S)
                    rounds += rounds_between(path, began, time.time())
    return [
        Outcome(number, len(rounds), 1e3 * statistics.median(rounds), 1e3 * statistics.quantiles(rounds, n=20)[-1])
        for number, rounds in found.items()
    ]


def main() -> int:
    """Run the benchmark, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--turns", type=int, default=4, metavar="N", help="phases of each kind [4]")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes are ended
    none, ten = measure(asked.turns)
    ratio = ten.median_ms / none.median_ms
    if asked.json:
        print(json.dumps({"rounds": [none._asdict(), ten._asdict()], "ratio": ratio, "ratio_max": RATIO_MAX}))
    else:
        print(f"{'observers':>9}{'rounds':>9}{'median ms':>11}{'p95 ms':>9}{'ratio':>8}{'target':>9}")
        print(f"{none.observers:9}{none.rounds:9}{none.median_ms:11.2f}{none.p95_ms:9.2f}")
        print(
            f"{ten.observers:9}{ten.rounds:9}{ten.median_ms:11.2f}{ten.p95_ms:9.2f}{ratio:7.2f}x{f'<= {RATIO_MAX}x':>9}"
        )
    return 0 if ratio <= RATIO_MAX else 1


if __name__ == "__main__":
    sys.exit(main())
