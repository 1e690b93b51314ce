"""Kill services repeatedly in one run: the model must equal that of an undisturbed run, bit for bit.

    python tests/chaos/kills.py [--case evolution|pygad|es] [--kills 60] [--rounds 20] [--seed 1]

Two trainers must answer every round, so that both runs have the same results. At a random moment after a round closes,
the aggregator, a trainer or all three are killed and started again. After the kills, some more rounds are
closed. Exit code 1 if the models differ, or a round was closed twice.
"""

from __future__ import annotations

import argparse
import csv
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

task = replace(find_task("linear"), name="kills", target=0.0, rounds=1_000_000)  # an unreachable target


def rows(part, parts):
    return task_rows("linear", part, parts)
"""
# Arguments of each algorithm. PyGAD with adaptive mutation asks two kinds of rounds in turn.
CASES = {
    "evolution": [],
    "pygad": [
        *("--param", "sol_per_pop=20", "--param", "gene_type=int", "--param", 'gene_space={"range": [-9, 10]}'),
        *("--param", "mutation_type=adaptive", "--param", "mutation_num_genes=[2,1]"),
    ],
    "es": ["--algorithm", "es"],
}
TRAINERS = ("alice", "bob")
VICTIMS = (("aggregator",), ("alice",), ("bob",), ("aggregator", *TRAINERS))
WAIT_S = 60.0


def events_of(folder: Path, kind: str, **fields: object) -> list[int]:
    """Return the rounds of all events of a kind with these fields, in order."""
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
        if event["event"] == kind and fields.items() <= event.items():
            found.append(int(event["round"]))
    return found


def train(
    processes: Processes, commands: dict[str, list[str]], folder: Path, kills: int, rounds: int, draws: random.Random
) -> int:
    """Execute one run with this number of kills, and `rounds` more; return the number of its rounds.

    `commands` starts the services by name. Only the last aggregator has an end: no kill comes too late.
    """
    commands = {**commands, "aggregator": [*commands["aggregator"], "--out", str(folder)]}
    for name, command in commands.items():
        if kills or name != "aggregator":
            processes.start(name, *command)
    for _ in range(kills):
        before, deadline = len(events_of(folder, "round-closed")), time.monotonic() + WAIT_S
        while len(events_of(folder, "round-closed")) <= before:
            if time.monotonic() > deadline or processes.running["aggregator"].poll() is not None:
                raise SystemExit(f"no round was closed within {WAIT_S:g} s after {before}, or the aggregator has ended")
            time.sleep(0.002)
        time.sleep(draws.uniform(0.0, 0.02))
        killed = draws.choice(VICTIMS)
        for name in killed:
            processes.running[name].kill()
        for name in killed:
            processes.running[name].wait()
            processes.start(name, *commands[name])
    if kills:
        processes.running["aggregator"].kill()
        processes.running["aggregator"].wait()
    rounds += len(events_of(folder, "round-closed"))
    processes.start("aggregator", *commands["aggregator"], "--rounds", str(rounds)).wait(10 * WAIT_S)
    return rounds


def main() -> int:
    """Run both and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case", choices=CASES, default="evolution")
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=20, help="after the last kill")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, Processes() as processes:
        folder = Path(place)
        task = folder / "kills.py"
        task.write_text(TASK, encoding="utf-8")
        port = free_port()
        broker = ["--broker", f"tcp://127.0.0.1:{port}"]
        processes.start("broker", "broker", "--port", str(port))
        commands = {
            name: ["trainer", "--name", name, "--data", f"linear:{name}", "--state", str(folder / name), *broker]
            for name in TRAINERS
        }
        commands["aggregator"] = [
            *("aggregator", "--task", str(task), *CASES[chosen.case], "--seed", str(chosen.seed), *broker, "--quiet"),
            *("--quorum", "1", "--deadline-s", "600"),
        ]
        rounds = chosen.rounds
        for run, kills in (("killed", chosen.kills), ("undisturbed", 0)):
            rounds = train(processes, commands, folder / run, kills, rounds, random.Random(chosen.seed))
            for name in TRAINERS:
                processes.running[name].kill()
        return verdict(folder, chosen.seed)


def figures_of(folder: Path) -> list[dict[str, str]]:
    """Return the figures of each closed round that do not depend on time."""
    with (folder / "history.csv").open(newline="") as file:
        return [
            {name: row[name] for name in row if name not in ("why", "round_s", "closed")}
            for row in csv.DictReader(file)
        ]


def verdict(folder: Path, seed: int) -> int:
    """Compare the two runs, print the result and return the exit code."""
    killed, undisturbed = (
        json.loads((folder / name / "report.json").read_text()) for name in ("killed", "undisturbed")
    )
    lives = (folder / "killed" / "events.jsonl").read_text().count('"run-started"')
    twice = [number for number, times in Counter(events_of(folder / "killed", "round-closed")).items() if times > 1]
    other = [
        one["round"]
        for one, whole in zip(figures_of(folder / "killed"), figures_of(folder / "undisturbed"), strict=False)
        if one != whole
    ]
    same = killed["model_sha256"] == undisturbed["model_sha256"] and not other
    print(f"lives of the aggregator   {lives}")
    print(f"rounds                    {killed['rounds']} killed, {undisturbed['rounds']} undisturbed")
    print(f"closed twice              {twice or 'none'}")
    print(f"rounds with other figures {other or 'none'}")
    print(f"model                     {killed['model_sha256']}")
    print(f"undisturbed model         {undisturbed['model_sha256']}")
    print("verdict                   " + ("the same" if same and not twice else f"WRONG, seed {seed}"))
    return 0 if same and not twice else 1


if __name__ == "__main__":
    sys.exit(main())
