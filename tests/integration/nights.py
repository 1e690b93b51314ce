"""Nights of one command: only its exit codes say what happened, without a look at a log.

    python tests/integration/nights.py [NIGHTS]       plays a month by default; prints a line a night

A broker and two trainers run all the time, each trainer with a file of rows. Every night the same `fedmq aggregator`
runs. Once a site is missing, once it has a changed file, once the task file is broken.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from services import Services, report_of, run_fedmq, until

What = Literal["calm", "absent", "changed", "broken"]
TASK = """
from fedmq import Linear, Task
task = Task(name="night", model=Linear({columns}), loss="squared-error", metric="loss", rounds=3)
"""
WAIT_S = 60.0
ABSENT_S = 2.0  # for a site that never comes
COMMAND = (
    *("aggregator", "--task", "night.py", "--algorithm", "averaging", "--param", "learning_rate=0.01"),
    *("--param", "standardize=false"),
    *("--quiet", "--out", "runs/night-{number}"),
)
ROWS = 8


class Night(NamedTuple):
    """What a night left behind."""

    what: What
    code: int
    line: str  # on stderr
    rows: int | None  # of all trainers in the newest report; None: there is no new one


def month(nights: int = 30) -> list[What]:
    """Return a calm month, but for three nights."""
    special: dict[int, What] = {nights // 4: "absent", nights // 2: "changed", 3 * nights // 4: "broken"}
    return [special.get(number, "calm") for number in range(nights)]


def start(services: Services) -> None:
    """Start the broker and both sites."""
    services.start_broker()
    for name in ("alice", "bob"):
        write_rows(services.folder, name, ROWS)
        start_site(services, name)


def start_site(services: Services, name: str) -> None:
    before = services.out(name).count("rows, broker")
    services.start_trainer(name, f"{name}.csv", "--min-rows", "1")
    until(lambda: services.out(name).count("rows, broker") > before, f"{name} to connect")


def write_rows(folder: Path, name: str, rows: int) -> None:
    draws = np.random.default_rng(rows)
    np.savetxt(folder / f"{name}.csv", draws.uniform(-1.0, 1.0, (rows, 3)), delimiter=",")


def play(services: Services, nights: Sequence[What]) -> Iterator[Night]:
    """Play the nights, one after the other."""
    folder = services.folder
    for what in nights:
        (folder / "night.py").write_text(TASK.format(columns=3 if what == "broken" else 2))
        if what == "absent":
            services.terminate("bob")
            services.wait("bob")
        if what == "changed":
            write_rows(folder, "alice", 2 * ROWS)
        before = set(folder.glob("runs/*/report.json"))
        wait_s = ABSENT_S if what == "absent" else WAIT_S
        done = run_fedmq(*COMMAND, cwd=folder, timeout_s=90.0, FEDMQ_BROKER=services.address, FEDMQ_WAIT=f"{wait_s:g}")
        new = [report_of(path.parent) for path in set(folder.glob("runs/*/report.json")) - before]
        rows = sum(one["num_examples"] for one in new[0]["trainers"]) if new else None
        yield Night(what, done.returncode, done.stderr.strip(), rows)
        if what == "absent":
            start_site(services, "bob")


def main() -> None:
    nights = month(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
    with tempfile.TemporaryDirectory() as folder, Services(Path(folder)) as services:
        start(services)
        for number, night in enumerate(play(services, nights), 1):
            print(f"night {number:>2}  {night.what:<8} exit code {night.code}  {night.line}", flush=True)


if __name__ == "__main__":
    main()
