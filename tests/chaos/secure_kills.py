"""Kill services repeatedly in one run with secure sums: no answer is lost or counted twice, no question opened twice.

    python tests/chaos/secure_kills.py [--trainers 4] [--kills 30] [--rounds 5] [--seed 1]

At a random moment after a round closes, some of the broker, the aggregator and the trainers are killed and restarted.
After the kills, some more rounds are closed. Every round waits for all trainers, so its total has all of their answers,
and the model is that of an undisturbed run, bit for bit. Where too few secrets are left to open a sum, its question is
spent: the round closes without answers, and the models are compared up to there. Exit code 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from kills import events_of, figures_of

from fedmq.deploy.processes import Processes, free_port
from fedmq.runs.store import Store
from fedmq.secure_sums.ledger import Entry
from fedmq.security.keyring import MEMBERS, FederationInfo, write_federation, write_identity, write_public
from fedmq.security.keys import Identity
from fedmq.trainer.ledger_files import _HASH_BYTES, _LENGTH_BYTES, LedgerFile, _decoded

TASK = """
import numpy as np
from fedmq import Linear, Task

task = Task(name="secure", model=Linear(2), loss="squared-error", metric="loss", target=0.0, rounds=1_000_000)


def rows(part, parts):
    draws = np.random.default_rng(part)
    return draws.uniform(-1.0, 1.0, (5, 2)), draws.uniform(-1.0, 1.0, 5)
"""
NAMES = ("alice", "bob", "carol", "dave", "erin")
WAIT_S = 240.0  # a sum that nobody can open is given up after two minutes


def make_federation(folder: Path, broker: str, names: tuple[str, ...]) -> None:
    """Write the keys of the services below `folder`, with all trainers as members."""
    keys, own, aggregator = folder / "keys", Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    federation = FederationInfo(os.urandom(16), broker, own.public.transport, aggregator.public)
    write_federation(keys, federation)
    write_identity(keys, own)
    write_identity(keys, aggregator)
    for name in names:
        identity = Identity.new("trainer", name)
        write_federation(folder / f"{name}-keys", federation)
        write_identity(folder / f"{name}-keys", identity)
        write_public(keys, MEMBERS, identity.public)


def closed(folder: Path) -> int:
    """Return the number of rounds that have closed."""
    return len(events_of(folder, "round-closed"))


class Run:
    """One run in a folder of its name, whose services `commands` starts by name."""

    def __init__(self, processes: Processes, commands: dict[str, list[str]], folder: Path) -> None:
        self.processes, self.folder = processes, folder
        of_run = {"aggregator": ["--out", str(folder), "--run", folder.name], "broker": []}
        state = ["--state", str(folder.with_suffix(".state"))]
        self.commands = {name: [*command, *of_run.get(name, state)] for name, command in commands.items()}
        self.killed = Counter[str]()
        self.opening = 0  # kills of the aggregator while a sum was opened

    def start(self, *names: str) -> None:
        for name in names:
            self.processes.start(name, *self.commands[name])

    def kill(self, *names: str) -> None:
        for name in names:
            self.processes.running[name].kill()
        for name in names:
            self.processes.running.pop(name).wait()

    def until_closed(self, rounds: int) -> None:
        give_up_at = time.monotonic() + WAIT_S
        while closed(self.folder) < rounds:
            if time.monotonic() > give_up_at or self.processes.running["aggregator"].poll() is not None:
                raise SystemExit(f"round {rounds} was not closed within {WAIT_S:g} s, or the aggregator has ended")
            time.sleep(0.002)

    def disturb(self, kills: int, draws: random.Random, trainers: tuple[str, ...]) -> None:
        """Kill this number of times; the next kill waits for a round to close."""
        self.start(*self.commands)
        for _ in range(kills):
            self.until_closed(closed(self.folder) + 1)
            time.sleep(draws.uniform(0.0, 0.05))
            one = draws.choice(trainers)
            victims = draws.choice(
                [("aggregator",), (one,), ("broker",), ("aggregator", one), ("aggregator", "broker")]
            )
            self.kill(*victims)
            self.killed.update(victims)
            if "aggregator" in victims:
                store = Store(self.folder / "store.sqlite3")
                self.opening += store.open_sum is not None
                store.close()
            self.start(*victims)
        self.until_closed(closed(self.folder) + 1)
        self.kill("aggregator")

    def end(self, rounds: int) -> dict[str, Any]:
        """Continue to this number of rounds; return the report."""
        started = [name for name in self.commands if name not in self.processes.running and name != "aggregator"]
        self.start(*started)
        last = self.processes.start("aggregator", *self.commands["aggregator"], "--rounds", str(rounds))
        if (code := last.wait(WAIT_S)) != 0:
            raise SystemExit(f"expected the aggregator to end with exit code 0, got {code}")
        self.kill(*self.processes.running)
        report: dict[str, Any] = json.loads((self.folder / "report.json").read_text())
        return report


def wrong_totals(folder: Path, trainers: tuple[str, ...]) -> tuple[list[str], int]:
    """Return what is wrong with the totals in the store, and the number of those without answers."""
    store = Store(folder / "store.sqlite3")
    totals = list(store.totals())
    store.close()
    found = [
        f"round {total.round} counts {sorted(total.header.rows)}"
        for total in totals
        if total.header.rows and sorted(total.header.rows) != sorted(trainers)
    ]
    twice = [number for number, times in Counter(total.round for total in totals).items() if times > 1]
    return [*found, *(f"round {number} has several totals" for number in twice)], sum(
        not total.header.rows for total in totals
    )


def entries_of(file: LedgerFile) -> Iterator[Entry]:
    """Yield all entries of a ledger in order, also those that were replaced."""
    content, end = file.path.read_bytes(), 0
    while (start := end + _LENGTH_BYTES + _HASH_BYTES) <= len(content):
        end = start + int.from_bytes(content[end : end + _LENGTH_BYTES], "big")
        yield _decoded(content[start:end]).entry


def wrong_entries(folder: Path, name: str) -> list[str]:
    """Return what is wrong with a trainer's ledger: an opened question is never answered in another sum."""
    entries: list[Entry] = list(entries_of(LedgerFile(folder.with_suffix(".state") / name, folder.name)))
    opened: dict[bytes, bytes] = {}
    found = [f"{name}: its sums go backward" for one, two in pairwise(entries) if two.order < one.order]
    for entry in entries:
        if opened.get(entry.question, entry.sum) != entry.sum:
            found.append(f"{name}: a question was answered again after it was opened")
        if entry.shares is not None:
            opened[entry.question] = entry.sum
    answers = {(entry.sum, bytes(entry.answer.values)) for entry in entries if entry.answer is not None}
    several = [sum_id for sum_id, times in Counter(sum_id for sum_id, _ in answers).items() if times > 1]
    return [*found, *(f"{name}: sum {sum_id.hex()} has several answers" for sum_id in several)]


def verdict(killed: Run, undisturbed: Run, reports: tuple[Any, Any], trainers: tuple[str, ...], seed: int) -> int:
    """Compare the two runs, print the result and return the exit code."""
    wrong, spent = wrong_totals(killed.folder, trainers)
    for name in trainers:
        wrong += wrong_entries(killed.folder, name)
    closes = Counter(events_of(killed.folder, "round-closed"))
    wrong += [f"round {number} was closed {times} times" for number, times in closes.items() if times > 1]
    abandoned = len(events_of(killed.folder, "sum-abandoned"))
    until = min(events_of(killed.folder, "sum-abandoned", spent=True), default=max(closes) + 1)
    wrong += [
        f"round {one['round']} has other figures"
        for one, whole in zip(figures_of(killed.folder), figures_of(undisturbed.folder), strict=False)
        if one != whole and int(one["round"]) < until
    ]
    models = [one["model_sha256"] for one in reports]
    if not spent and models[0] != models[1]:
        wrong.append(f"the model is {models[0]}, that of an undisturbed run {models[1]}")
    print(f"killed              {', '.join(f'{name} {times}' for name, times in sorted(killed.killed.items()))}")
    print(f"while sums opened   {killed.opening} kills of the aggregator")
    print(f"rounds              {reports[0]['rounds']}, {spent} of them without answers")
    print(f"sums abandoned      {abandoned}")
    print(f"model               {models[0]}")
    print(
        "verdict             "
        + (f"WRONG, seed {seed}" if wrong else "the same" if not spent else "the same, then spent")
    )
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def main() -> int:
    """Run both and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainers", type=int, choices=(3, 4, 5), default=4)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5, help="after the last kill")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    trainers = NAMES[: chosen.trainers]
    with tempfile.TemporaryDirectory() as place, Processes() as processes:
        folder, port = Path(place), free_port()
        (folder / "task.py").write_text(TASK, encoding="utf-8")
        make_federation(folder, f"tcp://127.0.0.1:{port}", trainers)
        commands = {"broker": ["broker", "--keys", str(folder / "keys"), "--port", str(port)]}
        for part, name in enumerate(trainers, 1):
            data = f"{folder / 'task.py'}:{part}/{len(trainers)}"
            commands[name] = ["trainer", "--keys", str(folder / f"{name}-keys"), "--data", data]
        commands["aggregator"] = [
            *("aggregator", "--keys", str(folder / "keys"), "--secure", "--task", str(folder / "task.py")),
            *("--algorithm", "es", "--seed", str(chosen.seed), "--quiet"),
            *("--min-trainers", str(len(trainers)), "--quorum", "1", "--deadline-s", "600"),
        ]
        killed, undisturbed = (Run(processes, commands, folder / name) for name in ("killed", "undisturbed"))
        killed.disturb(chosen.kills, random.Random(chosen.seed), trainers)
        rounds = closed(killed.folder) + chosen.rounds
        reports = killed.end(rounds), undisturbed.end(rounds)
        return verdict(killed, undisturbed, reports, trainers, chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
