"""Benchmark: a round of the real services with trainers that do no work, compared with a bare pyzmq echo.

Run it: `python tests/benchmarks/idle_round.py [--json] [--rounds N]`. Each trainer receives 72 bytes and returns 72.
The variants alternate, so that load on the machine affects all; the result is the ratio of the medians to the echo.
Exit code 1 if a target is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, and inherited by the trainers

import argparse
import json
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from itertools import count, pairwise
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
import zmq

from fedmq.aggregator.service import Aggregator
from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import Evaluation, Plan, Update
from fedmq.deploy.processes import Processes, free_port
from fedmq.observe import events
from fedmq.protocol.codec import Array, Packet
from fedmq.runs.store import Store
from fedmq.runtime.clock import SystemClock
from fedmq.runtime.loop import serve
from fedmq.runtime.rng import derive_rng
from fedmq.security.keyring import Credentials
from fedmq.security.signing import TrainerSigning
from fedmq.tasks.task import Task
from fedmq.testing import run_config
from fedmq.trainer.service import Trainer
from fedmq.trainer.session import Session
from fedmq.trainer.worker import Cancelled, ThreadWorker
from fedmq.transport.zeromq import AggregatorSockets, TrainerSockets

MODEL = np.linspace(0.0, 1.0, 9)  # 72 bytes
FOLDER = Path("build")  # on the file system of the checkout, ignored by git
TURNS = 6
WARM_UP = 20  # rounds of each turn that are not counted
TURN_S_MAX = 60.0
RATIO_MAX = {"in memory": 6.0, "durable": 12.0}
MS_WANTED = {("in memory", 2): 1.0, ("durable", 2): 2.0, ("in memory", 10): 3.0}


class Turn(NamedTuple):
    """The seconds of each round, and the CPU seconds of all processes together, per round."""

    rounds_s: list[float]
    cpu_s: float


Variant = Callable[[int], Turn]  # executes this number of rounds


class Outcome(NamedTuple):
    """One line of the table: medians over all rounds of all turns; None: no target."""

    variant: str
    trainers: int
    round_ms: float
    p95_ms: float
    cpu_ms: float
    ratio: float
    ratio_max: float | None
    wanted_ms: float | None


class Idle:
    """A strategy that publishes and receives 72 bytes; its state is the number of the open round."""

    name = "idle"
    additive = False
    parameters = None

    def init(self, task: Task, seed: int) -> int:
        return 1

    def ask(self, state: int) -> Plan:
        return Plan(Train(GradientLearner()), {"model": MODEL})

    def tell(self, state: int, update: Update) -> int:
        assert update.arrays["model"].nbytes == MODEL.nbytes
        return state

    def close(self, state: int, members: Collection[str]) -> int:
        return state + 1

    def evaluation(self, state: int) -> Evaluation | None:
        return None


def serve_idle_trainer(address: str, name: str, credentials: Credentials | None = None) -> None:
    """Run a trainer as the command does, but with work that returns its input."""

    def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
        return dict(packet.arrays)

    clock, link = SystemClock(), TrainerSockets(address, name, credentials)
    session = Session(name, 1, "benchmark", derive_rng(0, "jitter", name))
    try:
        signing = None if credentials is None else TrainerSigning(credentials)
        serve(Trainer(link, session, ThreadWorker(answer, link.wake, clock), clock=clock, signing=signing), link, clock)
    finally:
        link.close()


def federation(address: str, trainers: int, folder: Path | None, watched: Collection[int]) -> Variant:
    """Return a variant with an aggregator in this process; `folder` None keeps the store in memory."""
    numbers = count(1)

    def play(rounds: int) -> Turn:
        clock, run = SystemClock(), f"idle-{'durable' if folder else 'memory'}-{trainers}-{next(numbers)}"
        store = Store(folder / f"{run}.sqlite3" if folder else ":memory:")
        limits = {"rounds_max": WARM_UP + rounds, "min_trainers": trainers, "quorum": 1.0}
        store.begin(run_config(run, algorithm=Idle.name, **limits))
        published: list[tuple[float, float]] = []

        def watch(_at: float, happened: Sequence[events.AnyEvent]) -> None:
            for event in happened:
                if isinstance(event, events.RoundPublished):
                    published.append((time.perf_counter(), cpu_s(watched) if event.round == WARM_UP + 1 else 0.0))

        link = AggregatorSockets(address, run)
        service = Aggregator(link, store, Idle(), clock=clock, watch=watch)
        stop_by = clock.now() + TURN_S_MAX
        service.step()
        while not service.done and clock.now() < stop_by:
            link.wait(1.0 if service.wake_at is None else service.wake_at - clock.now())
            service.step()
        ended, spent = time.perf_counter(), cpu_s(watched)
        link.close()
        store.close()
        if not service.done:
            raise SystemExit(
                f"expected {rounds} rounds in {TURN_S_MAX} s, got {len(published)}: the machine may be overloaded"
            )
        marks = [moment for moment, _ in published[WARM_UP:]] + [ended]
        return Turn([after - before for before, after in pairwise(marks)], (spent - published[WARM_UP][1]) / rounds)

    return play


def serve_echo_broker(port: int) -> None:
    """Forward every frame in a Python poll loop: the minimal broker."""
    context = zmq.Context()
    sockets = [context.socket(kind) for kind in (zmq.XSUB, zmq.XPUB, zmq.PULL, zmq.XPUB)]
    for offset, socket in enumerate(sockets):
        socket.bind(f"tcp://127.0.0.1:{port + offset}")
    published, subscribers, pushed, aggregators = sockets
    goes_to = {published: subscribers, subscribers: published, pushed: aggregators}
    poller = zmq.Poller()
    for socket in goes_to:
        poller.register(socket, zmq.POLLIN)
    while True:
        for socket, _ in poller.poll():
            goes_to[socket].send_multipart(socket.recv_multipart())


def serve_echo_trainer(port: int) -> None:
    """Return each message."""
    context = zmq.Context()
    down, up = context.socket(zmq.SUB), context.socket(zmq.PUSH)
    down.subscribe(b"")
    up.connect(f"tcp://127.0.0.1:{port + 2}")
    down.connect(f"tcp://127.0.0.1:{port + 1}")
    while True:
        up.send_multipart(down.recv_multipart())


def echo(port: int, trainers: int, watched: Collection[int], stack: ExitStack) -> Variant:
    """Return a variant that only publishes 72 bytes and waits for all trainers to return them."""
    context = zmq.Context()
    down, up = context.socket(zmq.PUB), context.socket(zmq.SUB)
    stack.callback(context.destroy, linger=0)
    up.subscribe(b"")
    up.rcvtimeo = int(1000 * TURN_S_MAX)
    up.connect(f"tcp://127.0.0.1:{port + 3}")
    down.connect(f"tcp://127.0.0.1:{port}")
    payload = MODEL.tobytes()
    while not up.poll(100):  # until a trainer is connected,
        down.send_multipart([b"start", payload])
    answered = 0
    while answered < trainers:  # then until all answer one publication, and no other message is in flight
        while up.poll(200):
            up.recv_multipart()
        down.send_multipart([b"start", payload])
        answered = 0
        while answered < trainers and up.poll(1000):
            up.recv_multipart()
            answered += 1

    def play(rounds: int) -> Turn:
        marks, spent = [], 0.0
        for number in range(WARM_UP + rounds):
            if number == WARM_UP:
                spent = cpu_s(watched)
            marks.append(time.perf_counter())
            down.send_multipart([b"round", payload])
            for _ in range(trainers):
                up.recv_multipart()
        marks.append(time.perf_counter())
        return Turn([after - before for before, after in pairwise(marks[WARM_UP:])], (cpu_s(watched) - spent) / rounds)

    return play


def cpu_s(watched: Collection[int]) -> float:
    """Return the CPU seconds of this process and the watched ones; the kernel counts hundredths."""
    own = time.process_time()
    return own + sum(sum(psutil.Process(one).cpu_times()[:2]) for one in watched)


def start(stack: ExitStack, target: Callable[..., None], *arguments: Any) -> int:
    """Run `target` in its own process until the stack is closed; return its id."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=arguments, daemon=True)
    process.start()
    stack.callback(end, process)
    assert process.pid is not None
    return process.pid


def end(process: BaseProcess) -> None:
    """Send SIGTERM, and SIGKILL after a time-out."""
    process.terminate()
    process.join(6.0)
    process.kill()


def measure(trainers: int, rounds: int) -> list[Outcome]:
    """Measure the three variants in turns."""
    with ExitStack() as stack:
        FOLDER.mkdir(exist_ok=True)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="idle-round-", dir=FOLDER)))
        processes = stack.enter_context(Processes())
        port, echo_port = free_port(), free_port()
        address = f"tcp://127.0.0.1:{port}"
        watched = [processes.start("broker", "broker", "--port", str(port)).pid]
        watched += [start(stack, serve_idle_trainer, address, f"idle-{number}") for number in range(trainers)]
        echo_watched = [start(stack, serve_echo_broker, echo_port)]
        echo_watched += [start(stack, serve_echo_trainer, echo_port) for _ in range(trainers)]
        variants: dict[str, Variant] = {
            "bare echo": echo(echo_port, trainers, echo_watched, stack),
            "in memory": federation(address, trainers, None, watched),
            "durable": federation(address, trainers, folder, watched),
        }
        turns: dict[str, list[Turn]] = {name: [] for name in variants}
        for _ in range(TURNS):
            for name, play in variants.items():
                turns[name].append(play(-(-rounds // TURNS)))
    return outcomes(trainers, turns)


def outcomes(trainers: int, turns: dict[str, list[Turn]]) -> list[Outcome]:
    """Return the lines of the table."""
    medians = {
        name: statistics.median(second for turn in found for second in turn.rounds_s) for name, found in turns.items()
    }
    return [
        Outcome(
            variant=name,
            trainers=trainers,
            round_ms=1e3 * medians[name],
            p95_ms=1e3 * statistics.quantiles([second for turn in found for second in turn.rounds_s], n=20)[-1],
            cpu_ms=1e3 * statistics.fmean(turn.cpu_s for turn in found),
            ratio=medians[name] / medians["bare echo"],
            ratio_max=RATIO_MAX.get(name),
            wanted_ms=MS_WANTED.get((name, trainers)),
        )
        for name, found in turns.items()
    ]


def main() -> int:
    """Run the benchmark, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--rounds", type=int, default=600, metavar="N", help="rounds of each variant [600]")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes are ended
    found = [outcome for trainers in (2, 10) for outcome in measure(trainers, asked.rounds)]
    if asked.json:
        print(json.dumps([outcome._asdict() for outcome in found]))
    else:
        print(
            f"{'an idle round':14}{'trainers':>9}{'median ms':>11}{'p95 ms':>9}{'wanted ms':>11}{'CPU ms':>9}"
            f"{'ratio':>8}{'target':>9}"
        )
        for one in found:
            wanted = "" if one.wanted_ms is None else f"{one.wanted_ms:.1f}"
            target = "" if one.ratio_max is None else f"<= {one.ratio_max:.0f}x"
            print(
                f"{one.variant:14}{one.trainers:9}{one.round_ms:11.3f}{one.p95_ms:9.3f}{wanted:>11}{one.cpu_ms:9.2f}"
                f"{one.ratio:7.1f}x{target:>9}"
            )
    return 0 if all(one.ratio_max is None or one.ratio <= one.ratio_max for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
