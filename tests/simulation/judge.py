"""A federation under faults, and what must hold of it whatever happens; one seed decides everything.

    python tests/simulation/judge.py SEED [SEED ...]      prints what happened in it

The task is the linear one with three trainers and gradient steps, so that a seed costs milliseconds: what is judged
is the protocol, and a mean over models shows a result that is lost, doubled or summed in another order in its last bit.
"""

from __future__ import annotations

import hashlib
import random
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aggregator.replay import replay
from aggregator.service import Limits
from aggregator.store import Close, Store, StoredResult
from aggregator.strategies import find_strategy
from deploy.in_process import AGGREGATOR, Federation
from fedmq import events
from fedmq.messages import Accepted, Beacon, Message, Round, Welcome
from fedmq.tasks import Rows, Task, find_task
from fedmq.testing import Faults
from fedmq.wire import Frames, decode
from trainer.session import HELD_MAX

ROUNDS = 5
TRAINERS = ("alice", "bob", "carol")
FAULTS_S = 2.0  # faults happen for so long,
HEALED_S = 10.0  # and by then the run must be over
WORK_S = (0.02, 0.25)


class FragileStore(Store):
    """A store at each of whose writes its aggregator may crash."""

    fragile: Any = None  # the simulation, once there is one

    def keep_result(self, result: StoredResult) -> None:
        self._operation()
        super().keep_result(result)

    def keep_close(self, close: Close) -> None:
        self._operation()
        super().keep_close(close)

    def commit(self) -> None:
        if self._connection.in_transaction:
            self._operation()
        super().commit()

    def _operation(self) -> None:
        if self.fragile is not None:
            self.fragile.operation(AGGREGATOR)


@dataclass
class Seen:
    """What was seen on the wire."""

    accepted: set[tuple[int, str]] = field(default_factory=set)  # told to a trainer
    indices: dict[tuple[str, int], int] = field(default_factory=dict)  # of a trainer in an epoch
    digest: Any = field(default_factory=hashlib.sha256)
    lines: list[str] | None = None


def linear_task() -> Task:
    """The linear task, with a target that nobody reaches: every run has all its rounds."""
    task = find_task("linear")
    return Task(
        name=task.name, model=task.model, loss=task.loss, metric=task.metric, target=0.0, trainers=3, rounds=ROUNDS
    )


def rows_of(name: str) -> Rows:
    """Three rows for each name, always the same."""
    draws = np.random.default_rng(list(name.encode()))
    inputs = draws.uniform(-0.5, 0.5, (3, 2))
    return Rows(inputs, inputs @ np.array([1.5, 0.5]) - 0.25)


def federation(seed: int) -> Federation:
    """The scene, before anything has begun."""
    store = FragileStore(":memory:")
    scene = Federation(
        linear_task(),
        find_strategy("fedsgd"),
        {name: rows_of(name) for name in TRAINERS},
        seed=seed,
        limits=Limits(rounds_max=ROUNDS, min_trainers=2, deadline_s=0.6),
        store=store,
        work_s=WORK_S,
    )
    store.fragile = scene.simulation
    return scene


def watch(scene: Federation, seen: Seen) -> None:
    """Note what arrives where."""

    def trace(time: float, what: str, name: str, frames: Frames | None) -> None:
        seen.digest.update(f"{time!r} {what} {name}".encode())
        for frame in frames or ():
            seen.digest.update(frame)
        message = None if frames is None else decode(frames).message
        if what == "down" and message is not None:
            note(seen, name, message)
        if seen.lines is not None and not isinstance(message, Beacon):
            seen.lines.append(f"{time:8.4f} {what:5} {name:10} {message or ''}"[:160])

    scene.simulation.trace = trace


def note(seen: Seen, name: str, message: Message) -> None:
    """Which results a trainer has been told are on disk."""
    if isinstance(message, Accepted):
        seen.accepted.add((message.round, message.trainer))
    elif isinstance(message, Welcome):
        seen.indices[name, message.epoch] = message.index
    elif isinstance(message, Beacon | Round):
        index = seen.indices.get((name, message.epoch), 8 * len(message.acknowledged))
        if index < 8 * len(message.acknowledged) and message.acknowledged[index // 8] >> index % 8 & 1:
            seen.accepted.add((message.round - isinstance(message, Round), name))


def plan_faults(scene: Federation, seed: int) -> None:
    """Crashes in the midst of steps, crashes between them, late joins, leaves, and a bad network."""
    draws = random.Random(f"faults {seed}")
    simulation = scene.simulation
    simulation.faults = Faults(
        loss=draws.choice((0.0, 0.02, 0.15)),
        duplicate=draws.choice((0.0, 0.05, 0.3)),
        delay_s=(0.0002, draws.choice((0.002, 0.05, 0.4))),
        reorder=draws.random() < 0.5,
    )
    names = (simulation.broker_name, AGGREGATOR, AGGREGATOR, *TRAINERS)
    for name in names:
        simulation.at(draws.choice((0.0, 0.0, draws.uniform(0, 1.0))), lambda name=name: simulation.start(name))
    for _ in range(draws.randrange(6)):
        name, time = draws.choice(names), draws.uniform(0.05, FAULTS_S)
        how = draws.choice(("crash", "crash in", "crash in", "stop"))
        if how == "crash":
            simulation.at(time, lambda name=name: simulation.crash(name))
        elif how == "crash in":
            operations = draws.randrange(1, 12)
            simulation.at(time, lambda name=name, many=operations: simulation.crash_in(name, many))
        elif name in TRAINERS:
            simulation.at(time, lambda name=name: simulation.stop(name))
        back = time + draws.uniform(0.0, 0.8)
        simulation.at(back, lambda name=name: simulation.start(name))

    def heal() -> None:
        simulation.heal()
        simulation.start(*names)

    simulation.at(FAULTS_S + 0.8, heal)


def judge(seed: int, lines: list[str] | None = None) -> str:
    """Run a seed and check what must hold; the transcript's hash.

    Raises:
        AssertionError: something that must hold did not.
    """
    scene, seen = federation(seed), Seen(lines=lines)
    watch(scene, seen)
    plan_faults(scene, seed)
    over = scene.simulation.run(lambda: scene.finished, FAULTS_S + HEALED_S)
    check(scene, seen, over)
    return seen.digest.hexdigest()


def check(scene: Federation, seen: Seen, over: bool) -> None:
    """The invariants."""
    store, aggregator = scene.store, scene.aggregator
    assert aggregator is not None
    assert over, f"the run was not over {HEALED_S} s after the faults: round {aggregator.rounds.round}"
    scene.store.abandon()  # only what is on disk counts from here on
    kept = store.keys_since(0)
    assert seen.accepted <= kept, f"acknowledged, but not on disk: {sorted(seen.accepted - kept)}"
    closes = list(store.closes())
    assert [close.round for close in closes] == list(range(1, ROUNDS + 1)), "each round is closed once"
    assert sum(close.results for close in closes) == len(kept), "each result counts once"
    opened = [event.round for event in scene.events if isinstance(event, events.RoundPublished)]
    assert opened == sorted(opened), "no round is opened again after a later one"
    again = replay(store, scene.task, scene.strategy, scene.seed)
    theirs, ours = scene.strategy.standing(again.state), aggregator.rounds.standing
    assert theirs is not None, "something was learnt"
    assert ours is not None, "something was learnt"
    assert theirs.genes.tobytes() == ours.genes.tobytes(), "a replay of what is on disk gives the same model"
    told = [event for event in scene.events if isinstance(event, events.RunFinished)]
    assert len(told) == 1, "the end of the run is told once"
    for name in TRAINERS:
        node = scene.simulation.node(name)
        views = [] if node is None else node.session.runs.values()  # type: ignore[attr-defined]
        assert all(len(view.held) <= HELD_MAX for view in views), "what a trainer holds is bounded"


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        transcript: list[str] = []
        try:
            print(f"seed {argument}: {judge(int(argument), transcript)}")
        finally:
            print("\n".join(transcript))
