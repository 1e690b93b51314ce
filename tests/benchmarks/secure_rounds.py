"""Benchmark: rounds with secure sums beside plain rounds, with the real services and keys.

Run it: `python tests/benchmarks/secure_rounds.py [--json] [--rounds N]`. Trainers do no work: each receives candidates
of two parameters and returns a loss and a count for each. Plain and secure runs take turns on the same broker and
trainers.

All processes share this machine's cores, so a round has the work of all trainers. With trainers on machines of their
own, a round takes about the CPU time of aggregator, broker and *one* trainer, and its trips over the network: one, or
three with a secure sum. The column `apart` is this, from the measured CPU times and a bare echo for each trip. Exit
code 1 if its ratio for 10 x 480 is over the target.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, and inherited by the trainers

import argparse
import json
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psutil
from flood import Place, make_federation
from idle_round import FOLDER, echo, serve_echo_broker, serve_echo_trainer, start

import fedmq
from fedmq.aggregator.service import Aggregator
from fedmq.aggregator.sums import SumIdentities
from fedmq.algorithms.base import Evaluation, Plan, Update
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.deploy.processes import Processes, free_port
from fedmq.observe import events
from fedmq.protocol.codec import Array, Packet
from fedmq.runs.store import Store
from fedmq.runtime.clock import SystemClock
from fedmq.runtime.rng import derive_rng
from fedmq.security.keyring import Members, read_credentials
from fedmq.security.signing import AggregatorSigning, TrainerSigning
from fedmq.tasks.task import Task
from fedmq.testing import run_config
from fedmq.trainer.machine import SumIdentity
from fedmq.trainer.secure_answers import SecureAnswers
from fedmq.trainer.service import Trainer
from fedmq.trainer.session import Session
from fedmq.trainer.worker import Cancelled, ThreadWorker
from fedmq.transport.zeromq import AggregatorSockets, TrainerSockets

SIZES = ((10, 480), (100, 480), (10, 100_000))  # trainers, numbers of an answer
TRIPS = {"plain": 1, "secure": 3}
RATIO_MAX = 2.0  # apart, 10 x 480
LOSS = 1000.0  # in units of 2**-16: travels as int32
TURNS = 3
ES_ROUNDS = 30
WARM_UP = 5  # rounds of each turn that are not counted
PROCESSES_MAX = 10  # of trainers; each serves a part of them
TURN_S_MAX = 300.0


class Turn(NamedTuple):
    """The seconds of each round; per round, the CPU seconds of the broker, the aggregator and all trainers; bytes."""

    rounds_s: list[float]
    broker_s: float
    aggregator_s: float
    trainers_s: float
    up: float  # to the aggregator
    down: float  # from it, before the broker multiplies them


class Watched(NamedTuple):
    """The processes of a federation."""

    broker: int
    trainers: tuple[int, ...]

    def cpu_s(self) -> tuple[float, float, float]:
        """Return the CPU seconds of broker, this process, and all trainers."""
        broker, *trainers = (sum(psutil.Process(one).cpu_times()[:2]) for one in (self.broker, *self.trainers))
        return broker, time.process_time(), sum(trainers)


class Asks:
    """A strategy that asks for the losses of the same number of other candidates in each round."""

    name = "asks"
    additive = True
    parameters = None

    def __init__(self, numbers: int) -> None:
        self._size = (numbers // 2, 2)

    def init(self, task: Task, seed: int) -> int:
        return 1

    def ask(self, state: int) -> Plan:
        return Plan(Evaluate(), {"candidates": np.full(self._size, 1.0 / state)})

    def tell(self, state: int, update: Update) -> int:
        assert len(update.arrays["losses"]) == self._size[0]
        return state

    def close(self, state: int, members: Collection[str]) -> int:
        return state + 1

    def evaluation(self, state: int) -> Evaluation | None:
        return None


def serve_trainers(address: str, folder: Path, names: Sequence[str]) -> None:
    """Run trainers as the command does, a thread for each, but with work that answers zeros."""
    threads = [threading.Thread(target=serve_trainer, args=(address, folder / name, name)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve_trainer(address: str, keys: Path, name: str) -> None:
    """Run one trainer."""

    def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        size = len(packet.arrays["candidates"])
        return {"losses": np.full(size, LOSS), "correct": np.ones(size, np.int64)}

    clock, credentials = SystemClock(), read_credentials(keys, "trainer")
    link = TrainerSockets(address, name, credentials)
    member = SumIdentity(credentials.federation.id, credentials.identity)
    session = Session(name, 1, "benchmark", derive_rng(0, "jitter", name), secure=SecureAnswers(member))
    worker = ThreadWorker(answer, link.wake, clock)
    service = Trainer(link, session, worker, clock=clock, signing=TrainerSigning(credentials))
    while True:  # `serve` is for the main thread
        service.step()
        link.wait(1.0 if service.wake_at is None else max(0.0, service.wake_at - clock.now()))


def play(place: Place, name: str, trainers: int, numbers: int, rounds: int, watched: Watched, *, secure: bool) -> Turn:
    """Execute rounds with an aggregator in this process, whose store is in memory."""
    clock, store, aggregator = SystemClock(), Store(":memory:"), read_credentials(place.folder, "aggregator")
    limits = {"rounds_max": WARM_UP + rounds, "min_trainers": trainers, "quorum": 1.0}
    store.begin(msgspec.structs.replace(run_config(name, algorithm=Asks.name, **limits), secure=secure))
    published: list[float] = []
    spent: list[tuple[float, ...]] = []
    moved = [0, 0]

    def watch(_at: float, happened: Sequence[events.AnyEvent]) -> None:
        for event in happened:
            if isinstance(event, events.RoundPublished):
                published.append(time.perf_counter())
                if event.round == WARM_UP + 1:
                    spent.append(watched.cpu_s())
            if isinstance(event, events.RoundClosed) and event.round > WARM_UP:
                assert event.secure == secure
                assert event.results == trainers
                moved[0] += event.bytes_up
                moved[1] += event.bytes_down

    link = AggregatorSockets(place.address, name, aggregator)
    members = Members(place.folder)
    signing = AggregatorSigning(aggregator, members)
    service = Aggregator(
        link,
        store,
        Asks(numbers),
        clock=clock,
        watch=watch,
        broker=place.address,
        signing=signing,
        identities=SumIdentities(place.federation.id, members.of_name),
    )
    stop_by = clock.now() + TURN_S_MAX
    service.step()
    while not service.done and clock.now() < stop_by:
        link.wait(1.0 if service.wake_at is None else service.wake_at - clock.now())
        service.step()
    ended = time.perf_counter()
    spent.append(watched.cpu_s())
    link.close()
    store.close()
    if not service.done:
        raise SystemExit(f"expected {rounds} rounds in {TURN_S_MAX} s, got {len(published)}: the machine is overloaded")
    marks = [*published[WARM_UP:], ended]
    per_round = [(after - before) / rounds for before, after in zip(*spent, strict=True)]
    bytes_each = [one / rounds / trainers for one in moved]
    return Turn([after - before for before, after in pairwise(marks)], *per_round, *bytes_each)


def measure(trainers: int, numbers: int, rounds: int, trip_s: float) -> list[dict[str, Any]]:
    """Measure plain and secure rounds in turns; return a row of the table for each."""
    names = [f"t{number:03d}" for number in range(trainers)]
    turns: dict[str, list[Turn]] = {"plain": [], "secure": []}
    with ExitStack() as stack:
        FOLDER.mkdir(exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="secure-rounds-", dir=FOLDER)))
        place = make_federation(folder, names)
        processes = stack.enter_context(Processes())
        broker = processes.start("broker", "broker", "--keys", str(folder)).pid
        parts = [names[part::PROCESSES_MAX] for part in range(min(trainers, PROCESSES_MAX))]
        watched = Watched(broker, tuple(start(stack, serve_trainers, place.address, folder, part) for part in parts))
        for turn, (kind, found) in ((turn, one) for turn in range(TURNS) for one in turns.items()):
            run = f"{kind}-{turn}"
            found.append(play(place, run, trainers, numbers, rounds, watched, secure=kind == "secure"))
    return [row(kind, trainers, numbers, found, trip_s) for kind, found in turns.items()]


def row(kind: str, trainers: int, numbers: int, turns: list[Turn], trip_s: float) -> dict[str, Any]:
    """Return one row: medians over all rounds, and means of CPU times."""
    broker, aggregator, all_trainers, up, down = (
        statistics.fmean(one[place] for one in turns) for place in range(1, 6)
    )
    apart = broker + aggregator + all_trainers / trainers + TRIPS[kind] * trip_s
    return {
        "trainers": trainers,
        "numbers": numbers,
        "kind": kind,
        "round ms": 1e3 * statistics.median(second for one in turns for second in one.rounds_s),
        "broker ms": 1e3 * broker,
        "aggregator ms": 1e3 * aggregator,
        "a trainer ms": 1e3 * all_trainers / trainers,
        "apart ms": 1e3 * apart,
        "up bytes": up,
        "down bytes": down,
    }


def es_rounds() -> dict[str, float]:
    """Return the CPU milliseconds of a round of `es` on digits, of all trainers and the aggregator in one process."""
    found: dict[str, list[float]] = {"plain": [], "secure": []}
    for _ in range(TURNS):
        for kind, measured in found.items():
            began = time.process_time()
            fedmq.simulate(
                "digits",
                algorithm="es",
                trainers=10,
                split="classes:2",
                rounds=ES_ROUNDS,
                seed=1,
                secure=kind == "secure",
                progress=False,
            )
            measured.append(1e3 * (time.process_time() - began) / ES_ROUNDS)
    return {kind: statistics.median(measured) for kind, measured in found.items()}


def trip() -> float:
    """Return the median seconds of a bare echo with one trainer."""
    with ExitStack() as stack:
        port = free_port()
        watched = [start(stack, serve_echo_broker, port), start(stack, serve_echo_trainer, port)]
        return statistics.median(echo(port, 1, watched, stack)(200).rounds_s)


def main() -> int:
    """Run the benchmark, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=60, metavar="N", help="rounds of each turn [60]")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes are ended
    trip_s, missed, rows = trip(), False, []
    for trainers, numbers in SIZES:
        rounds = max(5, asked.rounds * 10 * 480 // (trainers * max(480, numbers // 20)))
        plain, secure = measure(trainers, numbers, rounds, trip_s)
        for one in (plain, secure):
            rows.append(
                one | {"ratio": one["round ms"] / plain["round ms"], "apart": one["apart ms"] / plain["apart ms"]}
            )
        missed = missed or ((trainers, numbers) == SIZES[0] and rows[-1]["apart"] > RATIO_MAX)
    digits = es_rounds()
    if asked.json:
        print(json.dumps({"rounds": rows, "es on digits, CPU ms": digits}, indent=1))
        return int(missed)
    print(f"a bare trip takes {1e3 * trip_s:.2f} ms")
    print(" | ".join(f"{name:>13}" for name in rows[0]))
    for one in rows:
        print(" | ".join(f"{value:>13,.2f}" if isinstance(value, float) else f"{value:>13}" for value in one.values()))
    shown = ", ".join(f"{kind} {one:.1f}" for kind, one in digits.items())
    print(f"a round of es on digits, ten trainers in one process, CPU ms: {shown}")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
