"""A federation under faults, and its invariants; one seed decides everything.

    python tests/simulation/judge.py SEED [FAULT ...]      prints its transcript, with all its faults or only these
    python tests/simulation/judge.py --seeds FIRST LAST    judges a range, on all cores, and prints the rate
    python tests/simulation/judge.py --seeds 1000000 1002000     the same of seeds that all have secure sums
    python tests/simulation/judge.py --drop-outs 3 10 30   secure runs of every algorithm over so many trainers, some of
                                                           them missing from each step on

The task is linear, with three trainers and a substitute for their work, so that a seed costs milliseconds. The protocol
is judged: a lost, doubled or reordered result changes the last bit of a mean over models. Every twentieth seed trains
by `es`, whose trainers compute the weights of a round from the last ones: each answer must be that to the weights.
Others do the same with secure sums, half of them by `evolution` by totals: each total must be that of the plain
answers, and no mask has two uses.
"""

from __future__ import annotations

import copy
import gc
import hashlib
import logging
import random
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
import numpy as np
from secure_sums import SumWire, all_drop_outs, check_sums, verifies_once

from fedmq.algorithms.base import Plan
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.trial import answer
from fedmq.errors import FedmqError, StoreError
from fedmq.observe import events
from fedmq.protocol.codec import Array, Frames, Packet, decode
from fedmq.protocol.messages import Accepted, Beacon, Message, Round, Welcome
from fedmq.protocol.run_config import Limits
from fedmq.runs.records import Record
from fedmq.runs.replay import Replayed, replay
from fedmq.runs.store import Store
from fedmq.secure_sums.ledger import Entry
from fedmq.security.keys import PublicIdentity
from fedmq.simulation import AGGREGATOR, Federation
from fedmq.simulation.network import Simulation
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task
from fedmq.testing import Faults
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.session import PENDING_MAX, STOP_S
from fedmq.trainer.spool import MemorySpool
from fedmq.trainer.worker import Cancelled, Learn

ROUNDS_MIN, ROUNDS_MAX = 2, 5
ES_EVERY, ES_ROUNDS = 20, 5  # seeds; rounds more, because two of them survey the columns
PARAMETERS: dict[str, dict[str, Any]] = {
    "averaging": {"learner": "evolution"},
    "es": {"starts": 2},
    "evolution": {"additive": True, "population": 20},
}
SECURE_EVERY, SECURE_FROM = 200, 1_000_000  # seeds with secure sums; all from the other one on
TRAINERS = ("alice", "bob", "carol")  # or the first two
SECURE_TRAINERS = (*TRAINERS, "dave", "erin")  # or the first four
FAULTS_S = 2.0  # faults begin in this time,
BACK_S = 0.8  # end after at most so long,
HEALED_S = 10.0  # and so long after that the run must be over,
LEAVE_S = 20.0  # a sum that lacks shares for so long is abandoned
SECURE_HEALED_S = 90.0  # with secure sums: a sum may fail, and a missing trainer is waited for at each of its steps
FAULTS_MAX = 6
WORK_S = (0.02, 0.25)
ZOMBIE = "zombie"
HOUR_S = 3600.0
decode_header = lru_cache(1024)(msgspec.msgpack.Decoder(Message).decode)
emptied: list[FragileStore] = []  # of seeds that are over: to make one costs SQLite more than all that a seed writes


class FragileStore(Store):
    """A store that may crash its aggregator, or run out of disk, at each write."""

    fragile: Any = None  # the simulation, once there is one
    lender: FragileStore | None = None  # that made the connection; None: this one

    def save(self, record: Record) -> None:
        self._operation()
        super().save(record)

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._operation()
        super().commit()

    def _operation(self) -> None:
        if self.fragile is not None:
            self.fragile.operation(AGGREGATOR)

    def hand_over(self) -> FragileStore:
        """Return the store of the next life; this one keeps a copy, like an old life on another machine."""
        self.abandon()  # uncommitted records were not acknowledged
        heir, other = copy.copy(self), FragileStore(":memory:")
        heir.lender, self.lender = self.lender or self, other  # a connection is closed with the object that made it
        self._connection.backup(other._connection)
        self._connection, self.fragile = other._connection, None
        return heir

    def empty(self) -> None:
        """Remove all records."""
        self.abandon()
        for table in ("run", "results", "closes", "checkpoints"):
            self._connection.execute(f"DELETE FROM {table}")  # noqa: S608
        self.fragile = None


class FragileSpool(MemorySpool):
    """A spool that may crash its trainer at each write of a ledger."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        super().__init__()
        self._simulation, self._name = simulation, name

    def record(self, run: str, entry: Entry | None) -> bool:
        self._simulation.operation(self._name)
        return super().record(run, entry)


@dataclass
class Seen:
    """What was on the wire."""

    accepted: set[tuple[int, str]] = field(default_factory=set)  # acknowledged to a trainer
    indices: dict[tuple[str, int], int] = field(default_factory=dict)  # of a trainer in a term
    sums: SumWire | None = None
    spent: bool = False  # the run ended as failed, because a question was spent
    split: bool = False  # two aggregators had one run
    orphaned: int = 0  # acknowledgements of a zombie's term are for a store that is not this run's any more
    digest: Any = None  # of all that happened
    lines: list[str] | None = None


class Judged(NamedTuple):
    """What was found in a range of seeds."""

    violations: list[str]
    spent: int  # seeds that ended as failed, because a question was spent


class Fault(NamedTuple):
    """Something that goes wrong at `name`, at a virtual second, and is over at another."""

    at: float
    back: float
    what: str
    name: str
    number: int  # of operations, or a choice


@lru_cache(ES_ROUNDS + ROUNDS_MAX)
def linear_task(rounds: int) -> Task:
    """The linear task, with a target out of reach: every run has all its rounds."""
    task = find_task("linear")
    return Task(name=task.name, model=task.model, loss=task.loss, metric=task.metric, target=0.0, rounds=rounds)


@lru_cache(len(TRAINERS))
def place_of(name: str, genes: int) -> Array:
    """Where a trainer's own model would be."""
    return np.random.default_rng(list(name.encode())).uniform(-1.0, 1.0, genes)


def stand_in(rows: Rows, name: str) -> Learn:
    """Work that costs nothing: each trainer moves the model towards a place of its own."""
    place = place_of(name, len(rows.inputs))
    correct = np.zeros(1, np.int64)

    def answer(packet: Packet, _cancelled: Cancelled) -> dict[str, Array]:
        model = packet.arrays["model"]
        way = place - model
        return {"model": model + 0.3 * way, "losses": way[:1] ** 2, "correct": correct}

    return answer


@lru_cache(len(SECURE_TRAINERS))
def rows_of(name: str) -> Rows:
    """The rows of a trainer whose work is not replaced."""
    numbers = np.random.default_rng(list(name.encode())).normal(size=(3, 8))
    return Rows(numbers[:2].T, numbers[2])


def is_secure(seed: int) -> bool:
    """Whether a seed has secure sums."""
    return seed % SECURE_EVERY == 1 or seed >= SECURE_FROM


def federation(seed: int) -> Federation:
    """The scene, before anything has begun."""
    store = emptied.pop() if emptied else FragileStore(":memory:")
    draws = random.Random(f"scene {seed}")
    rounds, names = draws.randint(ROUNDS_MIN, ROUNDS_MAX), TRAINERS[: draws.choice((2, 3))]
    trains, secure = seed % ES_EVERY == 0 or is_secure(seed), is_secure(seed)
    if secure:
        names = SECURE_TRAINERS[: len(names) + 2]
    rounds += ES_ROUNDS * trains
    task, algorithm = linear_task(rounds), "es" if trains else "averaging"
    if secure and draws.random() < 0.5:
        algorithm = "evolution"
    scene = Federation(
        task,
        find_algorithm(algorithm, task, PARAMETERS[algorithm]),
        {name: rows_of(name) if trains else Rows(np.zeros((3, 2)), np.zeros(3)) for name in names},
        seed=seed,
        limits=Limits(rounds_max=rounds, min_trainers=2 + secure, deadline_s=0.6, leave_s=LEAVE_S),
        store=store,
        learn=on_rows if trains else stand_in,
        work_s=WORK_S,
        secure=secure,
    )
    store.fragile = scene.simulation
    if secure:
        scene.spools |= {name: FragileSpool(scene.simulation, name) for name in names}
    return scene


def watch(scene: Federation, seen: Seen) -> None:
    """Note what arrives where."""

    def trace(time: float, what: str, name: str, frames: Frames | None) -> None:
        if what == "down" and frames is not None:
            note(seen, name, decode_header(frames[1]))
        if what == "up" and frames is not None and seen.sums is not None:
            seen.sums.note(frames)
        elif what == "start" and name == AGGREGATOR:
            check_kept(scene, seen)
        if seen.digest is not None:
            seen.digest.update(f"{time!r} {what} {name}".encode())
            seen.digest.update(b"".join(frames or ()))
        if seen.lines is not None:
            message = "" if frames is None else decode_header(frames[1])
            if not isinstance(message, Beacon):
                seen.lines.append(f"{time:8.4f} {what:5} {name:10} {message}"[:160])

    scene.simulation.trace = trace


def note(seen: Seen, name: str, message: Message) -> None:
    """Return the results that were acknowledged to a trainer."""
    if getattr(message, "term", 0) <= seen.orphaned:
        return
    if isinstance(message, Accepted):
        seen.accepted.add((message.round, message.trainer))
    elif isinstance(message, Welcome):
        seen.indices[name, message.term] = message.index
    elif isinstance(message, (Beacon, Round)):
        index = seen.indices.get((name, message.term), 8 * len(message.acknowledged))
        if index < 8 * len(message.acknowledged) and message.acknowledged[index // 8] >> index % 8 & 1:
            seen.accepted.add((message.round - isinstance(message, Round), name))


def draw_faults(seed: int, trainers: Sequence[str]) -> list[Fault]:
    """What goes wrong in a seed, besides the network."""
    draws = random.Random(f"faults {seed}")
    whats = ("crash", "crash in", "crash in", "stop", "freeze", "cut", "cut", "clock", "disk", "zombie")
    names = ("broker", AGGREGATOR, AGGREGATOR, *trainers)
    faults = []
    for _ in range(draws.randrange(FAULTS_MAX + 1)):
        at = draws.uniform(0.05, FAULTS_S)
        faults.append(
            Fault(at, at + draws.uniform(0.0, BACK_S), draws.choice(whats), draws.choice(names), draws.randrange(1, 7))
        )
    return faults


def network(seed: int) -> Faults:
    """What the network does in a seed."""
    draws = random.Random(f"network {seed}")
    return Faults(
        loss=draws.choice((0.0, 0.02, 0.15)),
        duplicate=draws.choice((0.0, 0.05, 0.3)),
        delay_s=(0.0002, draws.choice((0.002, 0.05, 0.4))),
        reorder=draws.random() < 0.5,
    )


def begin(scene: Federation, seen: Seen, fault: Fault) -> None:
    """Let a fault happen."""
    simulation, name = scene.simulation, fault.name
    match fault.what:
        case "crash":
            simulation.crash(name)
        case "crash in":
            simulation.crash_in(name, fault.number)
        case "disk":
            simulation.crash_in(AGGREGATOR, fault.number, StoreError("the disk is full"))
        case "stop" if name in SECURE_TRAINERS:
            simulation.stop(name)
        case "freeze":
            simulation.freeze(name)
        case "cut" if name != simulation.broker_name:
            simulation.cut(name, *(("up",), ("down",), ("up", "down"))[fault.number % 3])
        case "clock":
            simulation.clock.jump(HOUR_S if fault.number % 2 else -HOUR_S)
        case "zombie":
            make_zombie(scene, seen)


def make_zombie(scene: Federation, seen: Seen) -> None:
    """Let the aggregator stand still, and another go on with its store."""
    simulation = scene.simulation
    if simulation.node(AGGREGATOR) is not None and simulation.node(ZOMBIE) is None:
        simulation.freeze(AGGREGATOR)
        seen.orphaned, seen.split = scene.store.term, True
        scene.store = scene.store.hand_over()  # type: ignore[attr-defined]
        simulation.rename(AGGREGATOR, ZOMBIE)


def end(scene: Federation, fault: Fault) -> None:
    """Let a fault be over; who ended by it is started again."""
    simulation, name = scene.simulation, fault.name
    match fault.what:
        case "freeze":
            simulation.thaw(name)
        case "cut":
            simulation.cut(name)
        case "zombie" if simulation.node(ZOMBIE) is not None:
            simulation.thaw(ZOMBIE)
    simulation.start(AGGREGATOR if fault.what in ("disk", "zombie") else name)


def judge(seed: int, seen: Seen, only: Iterable[int] | None = None) -> None:
    """Run a seed, with all its faults or `only` some, and check what must hold.

    Raises:
        AssertionError: something that must hold did not.
    """
    scene = federation(seed)
    simulation = scene.simulation
    seen.sums = SumWire() if is_secure(seed) else None
    watch(scene, seen)
    simulation.faults = network(seed)
    draws = random.Random(f"starts {seed}")
    names = (simulation.broker_name, AGGREGATOR, *scene.trainers)
    for name in names:
        simulation.at(draws.choice((0.0, 0.0, draws.uniform(0, 1.0))), lambda name=name: simulation.start(name))
    faults = draw_faults(seed, scene.trainers)
    for number, fault in enumerate(faults):
        if only is None or number in only:
            if seen.lines is not None:
                seen.lines.append(f"fault {number}: {fault}")
            simulation.at(fault.at, lambda fault=fault: begin(scene, seen, fault))
            simulation.at(fault.back, lambda fault=fault: end(scene, fault))

    def heal() -> None:
        simulation.heal()
        simulation.start(*names)

    simulation.at(FAULTS_S + BACK_S, heal)
    simulation.at(FAULTS_S + BACK_S + STOP_S + 0.5, lambda: simulation.start(*names))  # who was still about to end
    healed_s = SECURE_HEALED_S if is_secure(seed) else HEALED_S
    over = simulation.run(lambda: scene.finished, FAULTS_S + BACK_S + healed_s)
    check(scene, seen, over)
    scene.store.empty()  # type: ignore[attr-defined]
    emptied.append(scene.store)  # type: ignore[arg-type]


def transcript(seed: int) -> str:
    """A hash of all that happens in a seed."""
    seen = Seen(digest=hashlib.sha256())
    judge(seed, seen)
    return str(seen.digest.hexdigest())


def check_kept(scene: Federation, seen: Seen) -> set[tuple[int, str]]:
    """Check that an aggregator that starts now finds all acknowledged results on disk."""
    scene.store.abandon()
    kept = scene.store.keys_since(0)
    assert seen.accepted <= kept, f"acknowledged, but not on disk: {sorted(seen.accepted - kept)}"
    return kept


def check(scene: Federation, seen: Seen, over: bool) -> None:
    """The invariants."""
    store, aggregator = scene.store, scene.aggregator
    assert aggregator is not None
    stands = seen.spent = seen.sums is not None and is_spent(scene)
    assert over or stands, f"the run was not over in time after the faults: round {aggregator.rounds.round}"
    kept = check_kept(scene, seen)
    closes = list(store.closes())
    rounds = scene.task.rounds if not stands else len(closes)
    assert [close.round for close in closes] == list(range(1, rounds + 1)), "each round is closed once"
    again = {close.round for close in closes if close.why == "spent"}  # with a total that has been counted
    once = {(number, name) for number, name in kept if number not in again}
    assert sum(close.results for close in closes) == len(once), "each result counts once"
    opened = [event.round for event in scene.events if isinstance(event, events.RoundPublished)]
    assert opened == sorted(opened), "no round is opened again after a later one"
    closed = [event.round for event in scene.events if isinstance(event, events.RoundClosed)]
    assert len(closed) == len(set(closed)), "no round that was told to be closed is closed again"
    plans = dict[int, Plan]()

    def plan(at: Replayed) -> None:
        plans[at.round] = scene.strategy.ask(at.state)

    replayed = replay(store, scene.task, scene.strategy, scene.seed, watch=plan)
    theirs, ours = scene.strategy.evaluation(replayed.state), aggregator.rounds.evaluation
    if theirs is None or ours is None:
        assert theirs is ours, "a replay of what is on disk gives the same model"
        assert stands or scene.strategy.name == "es", "something was learnt"  # a survey without a trainer begins again
    else:
        assert theirs.parameters.tobytes() == ours.parameters.tobytes(), (
            "a replay of what is on disk gives the same model"
        )
    if seen.sums is not None:
        check_sums(scene, seen.sums, plans, rows_of)
    elif scene.strategy.name == "es":
        check_answers(scene, plans)
    told = {event for event in scene.events if isinstance(event, events.RunFinished)}
    assert len(told) == 1 or stands, "each life of the aggregator tells the same end"
    for name in scene.trainers:
        node = scene.simulation.node(name)
        views = [] if node is None else node.session.runs.values()  # type: ignore[attr-defined]
        assert all(len(view.pending) <= PENDING_MAX for view in views), "what a trainer holds is bounded"


def is_spent(scene: Federation) -> bool:
    """Whether a run has ended with a reason, because more trainers than a sum can miss were gone once it was opened.

    Their question is spent, and a survey has no other one.
    """
    assert scene.aggregator is not None
    return scene.aggregator.rounds.failure.startswith("secure: expected another question")


def check_answers(scene: Federation, plans: Mapping[int, Plan]) -> None:
    """Check that each result was computed from the arrays of its round, although trainers had deltas."""
    for number in plans:
        for stored in scene.store.results(number):
            views = RowViews(scene.task, rows_of(stored.trainer))
            right = answer(plans[stored.round], scene.task, views, stored.round, scene.seed, stored.trainer).arrays
            found = decode(stored.frames).arrays
            assert all(found[name].tobytes() == one.tobytes() for name, one in right.items()), (
                f"{stored.trainer} answered round {stored.round} on other arrays"
            )


def failure(seed: int, only: Iterable[int] | None = None, seen: Seen | None = None) -> str | None:
    """What does not hold in a seed, in a line; None when all does."""
    try:
        judge(seed, seen or Seen(), only)
    except (AssertionError, FedmqError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def minimised(seed: int) -> str:
    """A failing seed with as few of its faults as still make it fail, and the command that repeats it."""
    only = list(range(FAULTS_MAX))
    for number in list(only):
        fewer = [other for other in only if other != number]
        if failure(seed, fewer) is not None:
            only = fewer
    command = " ".join(["python tests/simulation/judge.py", str(seed), *map(str, only)])
    return f"{failure(seed, only)}\n  repeat: {command}"


def judge_seeds(seeds: range) -> Judged:
    """Judge a range of seeds."""
    logging.disable(logging.CRITICAL)
    PublicIdentity.verifies = verifies_once  # type: ignore[method-assign]  # all trainers verify the same keys
    gc.disable()  # a seed leaves few cycles behind, and looking for them takes a tenth of the time
    gc.freeze()  # what was there before is not looked at either, when the seeds are over
    violations, spent = [], 0
    for seed in seeds:
        seen = Seen()
        if failure(seed, seen=seen) is not None:
            violations.append(minimised(seed))
        spent += seen.spent
    gc.collect()
    return Judged(violations, spent)


def judge_range(first: int, last: int, chunk: int = 50) -> Judged:
    """The same, on two processes."""
    chunks = [range(start, min(start + chunk, last)) for start in range(first, last, chunk)]
    with ProcessPoolExecutor(max_workers=2) as pool:
        found = list(pool.map(judge_seeds, chunks))
    return Judged([line for one in found for line in one.violations], sum(one.spent for one in found))


def main() -> int:
    """The command line at the top of this file."""
    if sys.argv[1] == "--seeds":
        first, last = int(sys.argv[2]), int(sys.argv[3])
        began = time.perf_counter()
        found = judge_range(first, last)
        took_s = time.perf_counter() - began
        rate = (last - first) / took_s
        print(f"{last - first} seeds, {len(found.violations)} violations, {rate:.0f} seeds a second")
        print(f"{found.spent} secure runs ended as failed: their question was spent")
        print("\n".join(found.violations))
        return 1 if found.violations else 0
    if sys.argv[1] == "--drop-outs":
        logging.disable(logging.CRITICAL)
        for line in all_drop_outs(map(int, sys.argv[2:])):
            print(line, flush=True)
        return 0
    seen = Seen(lines=[], digest=hashlib.sha256())
    try:
        judge(int(sys.argv[1]), seen, [int(word) for word in sys.argv[2:]] or None)
        print(f"seed {sys.argv[1]}: {seen.digest.hexdigest()}")
    finally:
        print("\n".join(seen.lines or ()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
