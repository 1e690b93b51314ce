"""Benchmark: the duration of `fedmq demo` and `fedmq --help`, and the memory of an idle trainer.

Run it: `python tests/benchmarks/startup.py [--json] [--repetitions N]`. The commands alternate with the reference, an
empty Python program; medians are compared with absolute targets. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import psutil

from fedmq.deploy.processes import Processes, free_port

COMMAND_S_MAX = 60.0
SETTLE_S_MAX = 10.0  # limit for an idle trainer to load all modules
STEADY_S = 0.3
MB = 1e6


class Outcome(NamedTuple):
    """One line of the table; `target` None for the references."""

    what: str
    unit: str
    median: float
    least: float
    most: float
    target: float | None


def run(*command: str) -> float:
    """Return the seconds of `command`; any exit code is accepted."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        check=False,
        timeout=COMMAND_S_MAX,
    )
    return time.perf_counter() - start


def demo(folder: Path) -> tuple[float, float]:
    """Return the seconds from the start of `fedmq demo` to its first closed round, and to its end."""
    started = time.time()
    whole_s = run("-P", "-m", "fedmq", "demo", "--seed", "7", "--out", str(folder))
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    closed = next((event["at"] for event in events if event["event"] == "round-closed"), None)
    if closed is None:
        raise SystemExit(f"expected a closed round in {folder}, got {len(events)} events; run `fedmq demo` to see why")
    return closed - started, whole_s


def idle_trainer_mb() -> float:
    """Return the resident megabytes of an idle trainer, once they are constant."""
    port = free_port()
    with Processes() as processes:
        processes.start("broker", "broker", "--port", str(port))
        address = f"tcp://127.0.0.1:{port}"
        trainer = processes.start("idle", "trainer", "--name", "idle", "--data", "xor:1/2", "--broker", address)
        process, stop_by = psutil.Process(trainer.pid), time.monotonic() + SETTLE_S_MAX
        resident, since = process.memory_info().rss, time.monotonic()
        while time.monotonic() < stop_by and not (process.net_connections() and time.monotonic() - since > STEADY_S):
            time.sleep(0.02)
            if (now := process.memory_info().rss) != resident:
                resident, since = now, time.monotonic()
    return float(resident / MB)


def measure(repetitions: int) -> list[Outcome]:
    """All of it, in turns."""
    found: dict[str, list[float]] = {what: [] for what in ("nothing", "help", "first", "whole", "memory")}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repetitions + 1):
            first_s, whole_s = demo(Path(folder) / str(turn))
            values = (run("-c", ""), run("-P", "-m", "fedmq", "--help"), first_s, whole_s, idle_trainer_mb())
            if turn:  # the first turn warms up the file system's cache
                for what, value in zip(found, values, strict=True):
                    found[what].append(value)
    lines = {
        "nothing": ("python -c ''", "s", None),
        "help": ("fedmq --help", "s", 0.2),
        "first": ("fedmq demo, to the first closed round", "s", 2.0),
        "whole": ("fedmq demo, whole", "s", 6.0),
        "memory": ("idle trainer, resident", "MB", 60.0),
    }
    return [
        Outcome(name, unit, statistics.median(found[what]), min(found[what]), max(found[what]), target)
        for what, (name, unit, target) in lines.items()
    ]


def main() -> int:
    """Run the benchmark, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="repetitions of each [5]")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes are ended
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    found = measure(asked.repetitions)
    if asked.json:
        print(json.dumps([outcome._asdict() for outcome in found]))
    else:
        print(f"{'from the start':40}{'median':>9}{'least':>9}{'most':>9}{'target':>10}")
        for one in found:
            target = "" if one.target is None else f"<= {one.target:g}"
            print(f"{one.what:40}{one.median:9.3f}{one.least:9.3f}{one.most:9.3f}{target:>10} {one.unit}")
    return 0 if all(one.target is None or one.median <= one.target for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
