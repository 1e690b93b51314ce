"""A secure run of processes, attacked with the frames at the aggregator's sockets and with its store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from keyed import Keyed
from secure_adversary import Adversary, log_of
from services import until

from fedmq.aggregator.service import Aggregator
from fedmq.aggregator.sums import SumIdentities
from fedmq.algorithms.parameters import parameters_of
from fedmq.algorithms.registry import find_algorithm
from fedmq.observe import events
from fedmq.protocol.codec import Frames
from fedmq.runs.records import StoredTotal
from fedmq.runs.store import Store
from fedmq.runtime.clock import SystemClock
from fedmq.security.keyring import Members
from fedmq.security.signing import AggregatorSigning
from fedmq.tasks.task_file import find_task
from fedmq.testing import run_config
from fedmq.transport.link import Delivered, LinkEvent
from fedmq.transport.zeromq import AggregatorSockets

NAMES = ("t0", "t1", "t2", "t3")
ROUNDS, KILLED, STARTED, RUN_S = 12, 5, 8, 40.0


class RecordingSockets(AggregatorSockets):
    """An aggregator's sockets that keep every frame."""

    def __init__(self, frames: list[Frames], *given: Any) -> None:
        super().__init__(*given)
        self._frames = frames

    def receive(self) -> Iterator[LinkEvent]:
        for event in super().receive():
            if isinstance(event, Delivered):
                self._frames.append(event.frames)
            yield event

    def send(self, frames: Frames) -> bool:
        self._frames.append(frames)
        return super().send(frames)


def test_frames_and_store_of_processes_give_totals_and_no_single_answer(tmp_path: Path) -> None:
    """A trainer is killed and started again, and so is the aggregator, in the middle of its rounds."""
    place, task, frames = Keyed(tmp_path, *NAMES), find_task("parity4"), list[Frames]()
    strategy = find_algorithm("es", task, {"pairs": 20, "starts": 1})
    with place.running_broker():
        for part, name in enumerate(NAMES, 1):
            start_trainer(place, name, part)
        for name in NAMES:  # three would do to begin, and the twelve rounds take a second
            until(lambda name=name: "rows, broker" in place.services.out(name), f"{name} to be ready")  # type: ignore[misc]
        limits = {"rounds_max": ROUNDS, "min_trainers": 3, "deadline_s": 2.0, "quorum": 0.5, "staleness": 0}
        (tmp_path / "store").mkdir()
        store = Store(tmp_path / "store" / "store.sqlite3")
        config = run_config(place.run, task, "es", parameters=parameters_of(strategy), **limits)
        store.begin(msgspec.structs.replace(config, secure=True))
        play(place, store, strategy, frames, KILLED)
        place.services.kill("t0")
        play(place, store, strategy, frames, STARTED)
        start_trainer(place, "t0", 1)
        play(place, store, strategy, frames, ROUNDS + 1)
        totals = [one for number in range(1, ROUNDS + 1) for one in store.results(number)]
        store.close()
    found = Adversary(log_of(frames))
    assert not found.singles()
    by_question = {question[:32]: one for one in found.learned for _, question, _ in one.unknowns}
    assert len(by_question) == len(found.learned) == len(totals) == ROUNDS
    survivors = []
    for total in totals:
        assert isinstance(total, StoredTotal)
        learned = by_question[total.header.question]
        assert {name for _, _, name in learned.unknowns} == set(total.header.rows)
        sign = np.uint64(next(iter(learned.unknowns.values())) % 2**64)
        values = np.concatenate([one.ravel() for one in total.update.arrays.values()])
        assert sorted((learned.value * sign).view(np.int64)) == sorted(values)
        survivors.append(len(learned.unknowns))
    assert min(survivors) >= 3
    assert max(survivors) == 4


def start_trainer(place: Keyed, name: str, part: int) -> None:
    data = f"parity4:{part}/{len(NAMES)}"
    place.services.start(name, "trainer", "--keys", str(place.folder / name), "--data", data, "--require-secure")


def play(place: Keyed, store: Store, strategy: Any, frames: list[Frames], until_round: int) -> None:
    """Run an aggregator until it has opened this round, or to the end of the run; then drop it, like a kill."""
    clock, members, opened = SystemClock(), Members(place.keys), set[int]()

    def watch(_at: float, happened: Sequence[events.AnyEvent]) -> None:
        opened.update(event.round for event in happened if isinstance(event, events.RoundPublished))

    store.abandon()
    credentials = place.of["aggregator"]
    link = RecordingSockets(frames, place.federation.broker, place.run, credentials)
    service = Aggregator(
        link,
        store,
        strategy,
        clock=clock,
        watch=watch,
        broker=place.federation.broker,
        signing=AggregatorSigning(credentials, members),
        identities=SumIdentities(place.federation.id, members.of_name),
    )
    stop_by = clock.now() + RUN_S
    service.step()
    while until_round not in opened and not service.done and clock.now() < stop_by:
        link.wait(1.0 if service.wake_at is None else max(0.0, service.wake_at - clock.now()))
        service.step()
    link.close()
    assert until_round in opened or service.done, f"round {until_round}: {sorted(opened)}"
