"""Kill services repeatedly in one run with secure sums: no answer is lost or counted twice, no question opened twice.

    python tests/chaos/secure_kills.py [--trainers 4] [--kills 30] [--rounds 5] [--seed 1]

The aggregator stops itself while a sum is open, in a drawn phase (see `stopping`). Then some of the broker, the
aggregator and the trainers are killed and restarted; every tenth time all trainers, so that no service has the secrets
of a sum that is being opened: its question is spent. After the kills, some more rounds close. A restarted trainer has
no secrets of the open sum, so a total may lack its answer. The plain answers of the trainers that it names must have
the same total, and give the same model, bit for bit. Exit code 1 if they do not, or if a ledger has a question that was
answered again after it was opened.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
from kills import events_of
from stopping import PHASES

from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.staged import asking_once
from fedmq.algorithms.trial import answer
from fedmq.deploy.processes import Processes, free_port
from fedmq.runs.maintenance import replay_run
from fedmq.runs.records import StoredTotal
from fedmq.runs.store import Store
from fedmq.secure_sums.ledger import Entry
from fedmq.secure_sums.policy import default_threshold
from fedmq.security.keyring import MEMBERS, FederationInfo, write_federation, write_identity, write_public
from fedmq.security.keys import Identity
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.trainer.ledger_files import records_of

TASK = """
import numpy as np
from fedmq import Linear, Task

task = Task(name="secure", model=Linear(2), loss="squared-error", metric="loss", target=0.0, rounds=1_000_000)


def rows(part, parts):
    draws = np.random.default_rng(part)
    return draws.uniform(-1.0, 1.0, (5, 2)), draws.uniform(-1.0, 1.0, 5)
"""
NAMES = ("alice", "bob", "carol", "dave", "erin")
RUN = "secure"
STOPPING = Path(__file__).with_name("stopping.py")
WAIT_S = 240.0  # a sum that too few trainers can open is given up after two minutes


class Federation:
    """The services of a run with keys, in `folder`."""

    def __init__(self, processes: Processes, folder: Path, trainers: tuple[str, ...], seed: int) -> None:
        self.processes, self.folder, self.run = processes, folder, folder / "run"
        self.trainers, self.task = trainers, str(folder / "task.py")
        self.seed, self.lives = seed, 0  # of the aggregator
        self.killed = Counter[tuple[str, str]]()  # by phase and service
        self.saved = 0  # kills of the aggregator with the sum to open in its store
        port, keys = free_port(), str(folder / "keys")
        Path(self.task).write_text(TASK, encoding="utf-8")
        self._make_keys(f"tcp://127.0.0.1:{port}")
        self.commands = {"broker": ["broker", "--keys", keys, "--port", str(port)]}
        for part, name in enumerate(trainers, 1):
            data = ("--data", f"{self.task}:{part}/{len(trainers)}", "--state", str(folder / "state"))
            self.commands[name] = ["trainer", "--keys", str(folder / name), *data]
        self.commands["aggregator"] = [
            *("aggregator", "--keys", keys, "--secure", "--task", self.task, "--algorithm", "es"),
            *("--run", RUN, "--out", str(self.run), "--seed", str(seed), "--quiet"),
            *("--min-trainers", str(len(trainers)), "--quorum", "1", "--deadline-s", "600"),
        ]

    def _make_keys(self, broker: str) -> None:
        keys, own = self.folder / "keys", Identity.new("broker", "broker")
        aggregator = Identity.new("aggregator", "aggregator")
        federation = FederationInfo(os.urandom(16), broker, own.public.transport, aggregator.public)
        write_federation(keys, federation)
        write_identity(keys, own)
        write_identity(keys, aggregator)
        for name in self.trainers:
            identity = Identity.new("trainer", name)
            write_federation(self.folder / name, federation)
            write_identity(self.folder / name, identity)
            write_public(keys, MEMBERS, identity.public)

    @property
    def closed(self) -> int:
        """The number of rounds that have closed."""
        return len(events_of(self.run, "round-closed"))

    def start(self, *names: str) -> None:
        for name in names:
            if name == "aggregator":
                self.processes.running[name] = self._stopping()
            else:
                self.processes.start(name, *self.commands[name])

    def _stopping(self) -> subprocess.Popen[bytes]:
        """Start an aggregator that stops while a sum is open."""
        self.lives += 1
        command = [sys.executable, "-P", str(STOPPING), f"{self.seed}/{self.lives}", str(self.status)]
        return subprocess.Popen([*command, *self.commands["aggregator"]], stdin=subprocess.DEVNULL)

    @property
    def status(self) -> Path:
        return self.folder / "phase"

    def kill(self, *names: str) -> None:
        for name in names:
            self.processes.running[name].kill()
        for name in names:
            self.processes.running[name].wait()

    def until_stopped(self) -> str:
        """Wait until the aggregator has stopped itself, and return the phase of its round."""
        aggregator, give_up_at = self.processes.running["aggregator"], time.monotonic() + WAIT_S
        while os.waitid(os.P_PID, aggregator.pid, os.WSTOPPED | os.WNOHANG) is None:
            if time.monotonic() > give_up_at or aggregator.poll() is not None:
                raise SystemExit(f"no sum was open within {WAIT_S:g} s, or the aggregator has ended")
            time.sleep(0.002)
        return self.status.read_text()

    def disturb(self, kills: int, draws: random.Random) -> None:
        """Kill this number of times, each time while a sum is open."""
        self.start(*self.commands)
        for number in range(1, kills + 1):
            phase = self.until_stopped()
            time.sleep(draws.uniform(0.0, 0.05))  # in which the others receive what was sent
            one = draws.choice(self.trainers)
            kinds = [("aggregator",), (one,), ("broker",), ("aggregator", one), ("aggregator", "broker")]
            victims = draws.choice(kinds) if number % 10 else self.trainers
            self.kill(*victims)
            self.killed.update((phase, name if name in ("aggregator", "broker") else "trainer") for name in victims)
            if "aggregator" in victims:
                with Store(self.run / "store.sqlite3") as store:
                    self.saved += store.open_sum is not None
            else:
                self.processes.running["aggregator"].send_signal(signal.SIGCONT)
            self.start(*victims)

    def end(self, rounds: int) -> None:
        """Continue for `rounds` rounds: only the last aggregator has an end, so that no kill comes too late."""
        self.kill("aggregator")
        limit = ("--rounds", str(self.closed + rounds))
        if (code := self.processes.start("aggregator", *self.commands["aggregator"], *limit).wait(WAIT_S)) != 0:
            raise SystemExit(f"expected the aggregator to end with exit code 0, got {code}")


def check_totals(federation: Federation, seed: int) -> tuple[list[str], str | None, Counter[int]]:
    """Return what is wrong, the SHA-256 of the model from plain answers, and the number of rounds by answers."""
    task, sizes, wrong = find_task(federation.task), Counter[int](), list[str]()
    strategy, parts = asking_once(find_algorithm("es", task)), len(federation.trainers)
    views = {
        name: RowViews(task, task_rows(federation.task, part, parts))
        for part, name in enumerate(federation.trainers, 1)
    }
    with Store(federation.run / "store.sqlite3") as store:
        state = strategy.init(task, seed)
        for close in store.closes():
            plan, (total,) = strategy.ask(state), tuple(store.results(close.round))
            assert isinstance(total, StoredTotal)
            names = sorted(total.header.rows)
            sizes[len(names)] += 1
            if not set(names) <= views.keys() or 0 < len(names) < default_threshold(parts):
                wrong.append(f"round {close.round} counts {names}")
            plain = [answer(plan, task, views[name], close.round, seed, name) for name in names]
            for array, values in total.update.arrays.items():
                if not np.array_equal(values, np.sum([one.arrays[array] for one in plain], axis=0)):
                    wrong.append(f"round {close.round}: the total of {array} is not that of the plain answers")
            for update in plain:
                state = strategy.tell(state, update)
            state = strategy.close(state, close.members)
    found = strategy.evaluation(state)
    model = None if found is None else task.trained(found.parameters, found.preparation)
    if sizes[0] != (spent := len(events_of(federation.run, "sum-abandoned", spent=True))):
        wrong.append(f"{sizes[0]} rounds have no answers, and {spent} questions are spent")
    return wrong, None if model is None else hashlib.sha256(model.to_bytes()).hexdigest(), sizes


def entries_of(path: Path) -> list[Entry]:
    """Return all entries of a ledger in order, also those that were replaced."""
    return [kept.entry for kept, _ in records_of(path.read_bytes())]


def check_ledger(path: Path) -> list[str]:
    """Return what is wrong with a ledger: sums go forward, have one answer, and answer no opened question."""
    entries, opened = entries_of(path), dict[bytes, bytes]()
    wrong = [f"{path}: its sums go backward" for one, two in pairwise(entries) if two.order < one.order]
    for entry in entries:
        if opened.get(entry.question, entry.sum) != entry.sum:
            wrong.append(f"{path}: a question was answered again after it was opened")
        if entry.shares is not None:
            opened[entry.question] = entry.sum
    answers = {(entry.sum, entry.answer.values) for entry in entries if entry.answer is not None}
    if len({sum_id for sum_id, _ in answers}) != len(answers):
        wrong.append(f"{path}: a sum has several answers")
    return wrong


def judge(federation: Federation, seed: int) -> int:
    """Print the result and return the exit code."""
    wrong, plain, sizes = check_totals(federation, seed)
    for name in federation.trainers:
        wrong += check_ledger(federation.folder / "state" / name / f"{RUN}.ledger")
    closes = Counter(events_of(federation.run, "round-closed"))
    wrong += [f"round {number} was closed {times} times" for number, times in closes.items() if times > 1]
    model = json.loads((federation.run / "report.json").read_text())["model_sha256"]
    if model != plain:
        wrong.append(f"the model is {model}, that of plain answers {plain}")
    if model != (again := replay_run(federation.run).model_sha256):
        wrong.append(f"the model is {model}, that of a replay {again}")
    abandoned = len(events_of(federation.run, "sum-abandoned"))
    for phase in PHASES:
        of_phase = ", ".join(
            f"{name} {federation.killed[phase.value, name]}" for name in ("aggregator", "trainer", "broker")
        )
        print(f"killed, {phase.value:12}{of_phase}")
    print(f"with a saved sum    {federation.saved} kills of the aggregator")
    print(f"rounds              {', '.join(f'{times} with {size} answers' for size, times in sorted(sizes.items()))}")
    print(
        f"sums abandoned      {abandoned}, {len(events_of(federation.run, 'sum-abandoned', spent=True))} of them spent"
    )
    print(f"model               {model}")
    print("verdict             " + (f"WRONG, seed {seed}" if wrong else "that of plain answers"))
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)
    return 1 if wrong else 0


def main() -> int:
    """Train under kills, judge, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainers", type=int, choices=(3, 4, 5), default=4)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5, help="after the last kill")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, Processes() as processes:
        federation = Federation(processes, Path(place), NAMES[: chosen.trainers], chosen.seed)
        federation.disturb(chosen.kills, random.Random(chosen.seed))
        federation.end(chosen.rounds)
        federation.kill(*processes.running)
        return judge(federation, chosen.seed)


if __name__ == "__main__":
    sys.exit(main())
