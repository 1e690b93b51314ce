"""Scenarios as plain text: commands, and the expected transcript of the wire.

A file holds a sentence, commands, a line of dashes and the transcript. `>` is a message from an edge when it arrives
at the broker, `<` one that an edge receives; beacons are left out. REWRITE_SCENARIOS=1 rewrites the transcripts.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from judge import TRAINERS, FragileStore, linear_task

from fedmq.algorithms.base import encode_query
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import WorkCancelled
from fedmq.protocol import messages
from fedmq.protocol.codec import Array, Frames, Packet, decode, encode
from fedmq.protocol.run_config import Limits
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows
from fedmq.testing import Faults, VirtualClock
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.worker import Cancelled, Learn

SCENARIOS = sorted(Path(__file__).with_name("scenarios").glob("*.txt"))
RULE = "-" * 20
FIRST_EPOCH = int(1000 * VirtualClock().wall())  # 1 in a transcript
DETAILS = ("trainer", "round", "term", "index", "attempt", "present", "reason", "rounds", "solved")


def short(message: messages.Message) -> str:
    """Return the kind and the main fields of a message."""
    values = {name: getattr(message, name) for name in DETAILS if hasattr(message, name)}
    if "term" in values:
        values["term"] -= FIRST_EPOCH - 1
    fields = [f"{name} {value}" for name, value in values.items()]
    return " ".join([type(message).__name__.lower(), *fields])


def rows_of(name: str) -> Rows:
    """Return three rows for each name, always the same."""
    draws = np.random.default_rng(list(name.encode()))
    inputs = draws.uniform(-0.5, 0.5, (3, 2))
    return Rows(inputs, inputs @ np.array([1.5, 0.5]) - 0.25)


class Stage:
    """A federation of three trainers that runs the commands of a scenario."""

    def __init__(self) -> None:
        limits = Limits(rounds_max=2, min_trainers=2, deadline_s=1.0)
        rows = {name: rows_of(name) for name in TRAINERS}
        steady = Faults(delay_s=(0.001, 0.001), reconnect_s=(0.1, 0.1))
        self.hung: set[str] = set()
        self.federation = Federation(
            linear_task(rounds=2),
            find_algorithm("averaging", parameters={"standardize": False}),
            rows,
            limits=limits,
            faults=steady,
            work_s=(0.05, 0.05),
            learn=self.learn,
            store=(store := FragileStore(":memory:")),
        )
        store.fragile = self.federation.simulation
        self.simulation = self.federation.simulation
        self.simulation.trace = self.trace
        self.seen: list[str] = []

    def learn(self, rows: Rows, name: str) -> Learn:
        work = on_rows(rows, name)

        def learn_unless_hung(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
            if name in self.hung:
                raise WorkCancelled("it never ends")
            return work(packet, cancelled)

        return learn_unless_hung

    def trace(self, time: float, what: str, name: str, frames: Frames | None) -> None:
        if frames is None:
            self.seen.append(f"{time:7.3f}  {what} {name}")
            return
        message = decode(frames).message
        if not isinstance(message, messages.Beacon):
            self.seen.append(f"{time:7.3f}  {name:10} {'>' if what == 'up' else '<'} {short(message)}")

    def do(self, command: str) -> None:
        verb, *words = command.split()
        if verb == "run":
            self.simulation.run(lambda: False, float(words[0]))
        elif verb == "finish":
            assert self.simulation.run(lambda: self.federation.finished, 30.0), "the run ends"
            self.simulation.run(lambda: False, 0.1)
        elif verb == "crash" and "in" in words:
            self.simulation.crash_in(words[0], int(words[2]))
        elif verb == "hang":
            self.hung.add(words[0])
        elif verb == "forge":
            self.forge(words[0], int(words[1]))
        else:
            getattr(self.simulation, verb)(*words)

    def forge(self, name: str, term: int) -> None:
        """Send `name` a round as an older or newer life of the aggregator would."""
        connection = self.simulation._links["aggregator"].connection
        assert connection is not None
        rounds = self.federation.aggregator.rounds  # type: ignore[union-attr]
        plan = rounds._strategy.ask(rounds._state)
        message = messages.Round(
            run="run",
            term=FIRST_EPOCH - 1 + term,
            round=9,
            seed=0,
            deadline_s=1.0,
            task=self.federation.task,
            query=encode_query(plan.query),
        )
        self.simulation.send_up(connection, encode(f"to/{name}/", message, dict(plan.arrays)))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario_matches_its_transcript(path: Path) -> None:
    logging.disable(logging.CRITICAL)
    text = path.read_text(encoding="utf-8")
    head, _, expected = text.partition(RULE + "\n")
    stage = Stage()
    for line in head.splitlines():
        if line and not line.startswith("#"):
            stage.do(line)
    logging.disable(logging.NOTSET)
    seen = "\n".join(stage.seen) + "\n"
    if os.environ.get("REWRITE_SCENARIOS"):
        path.write_text(head + RULE + "\n" + seen, encoding="utf-8")
        return
    assert seen == expected, f"{path.name} differs; see git diff after REWRITE_SCENARIOS=1"


def test_there_are_a_dozen_scenarios() -> None:
    assert len(SCENARIOS) >= 12
