"""Kill the aggregator repeatedly in one run: the model must equal that of an undisturbed run, bit for bit.

    python tests/chaos/aggregator_kills.py [--kills 60] [--rounds 200] [--seed 1]

Two trainers must answer every round, so that both runs have the same results. Each process is killed at a random moment
after it has closed a round, until all kills are done. Exit code 1 if the models differ, or a round was closed twice.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fedmq.deploy.processes import Processes, free_port

TASK = """
from msgspec.structs import replace
from fedmq.tasks.task_file import find_task, task_rows

task = replace(find_task("linear"), name="kills", target=0.0, rounds={rounds})  # an unreachable target


def rows(part, parts):
    return task_rows("linear", part, parts)
"""
WAIT_S = 60.0


def events_of(folder: Path, kind: str) -> list[int]:
    """Return the rounds of all events of a kind, in order."""
    try:
        lines = (folder / "events.jsonl").read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # an incomplete line of a killed process
        if event["event"] == kind:
            found.append(int(event["round"]))
    return found


def train(processes: Processes, folder: Path, arguments: list[str], kills: int, draws: random.Random) -> None:
    """Execute one run to its end with this number of kills."""
    while True:
        before = len(events_of(folder, "round-closed"))
        aggregator = processes.start("aggregator", "aggregator", *arguments, "--out", str(folder))
        if kills:
            deadline = time.monotonic() + WAIT_S
            while aggregator.poll() is None and len(events_of(folder, "round-closed")) <= before:
                if time.monotonic() > deadline:
                    raise SystemExit(f"no round was closed within {WAIT_S:g} s")
                time.sleep(0.002)
            time.sleep(draws.uniform(0.0, 0.02))
        if not kills or aggregator.poll() is not None:
            aggregator.wait(WAIT_S)
            return
        aggregator.kill()
        aggregator.wait()
        kills -= 1


def main() -> int:
    """Run both and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, Processes() as processes:
        folder = Path(place)
        task = folder / "kills.py"
        task.write_text(TASK.format(rounds=chosen.rounds), encoding="utf-8")
        port = free_port()
        broker = ["--broker", f"tcp://127.0.0.1:{port}"]
        processes.start("broker", "broker", "--port", str(port))
        for name in ("alice", "bob"):
            processes.start(name, "trainer", "--name", name, "--data", f"linear:{name}", *broker)
        arguments = ["--task", str(task), "--quorum", "1", "--deadline-s", "600", "--seed", str(chosen.seed), *broker]
        train(processes, folder / "killed", [*arguments, "--quiet"], chosen.kills, random.Random(chosen.seed))
        train(processes, folder / "undisturbed", [*arguments, "--quiet"], 0, random.Random(chosen.seed))
        return verdict(folder, chosen.seed)


def verdict(folder: Path, seed: int) -> int:
    """Compare the two runs, print the result and return the exit code."""
    killed, undisturbed = (
        json.loads((folder / name / "report.json").read_text()) for name in ("killed", "undisturbed")
    )
    lives = (folder / "killed" / "events.jsonl").read_text().count('"run-started"')
    twice = [number for number, times in Counter(events_of(folder / "killed", "round-closed")).items() if times > 1]
    same = killed["model_sha256"] == undisturbed["model_sha256"]
    print(f"lives of the aggregator  {lives}")
    print(f"rounds                   {killed['rounds']} killed, {undisturbed['rounds']} undisturbed")
    print(f"closed twice             {twice or 'none'}")
    print(f"model                    {killed['model_sha256']}")
    print(f"undisturbed model        {undisturbed['model_sha256']}")
    print("verdict                  " + ("the same" if same and not twice else f"WRONG, seed {seed}"))
    return 0 if same and not twice else 1


if __name__ == "__main__":
    sys.exit(main())
