"""The state machine of a run with a clock, for the tests of its rules."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from fedmq.aggregator.machine import Input, Output, Phase
from fedmq.aggregator.roster import Roster
from fedmq.aggregator.rounds import Rounds
from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import Evaluation, Plan, Update
from fedmq.errors import Rejected
from fedmq.protocol.codec import decode, digest_of, encode, pack
from fedmq.protocol.messages import Hello, Message, Presence, Result, Round
from fedmq.runs.records import Close, Invitation, StoredResult
from fedmq.tasks.task_file import find_task
from fedmq.testing import run_config
from fedmq.transport.link import BrokerConnected, MessageReceived

TASK = find_task("linear")  # its target is a summed loss of at most 0.2501
FORGET_S = 30.0
WALL = 1e9  # seconds since 1970 when the clock begins
Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Guess:
    """The state of the toy strategy: a guess, and the numbers received since it was published."""

    value: float = 0.0
    told: tuple[tuple[str, float], ...] = ()
    evaluation: Evaluation | None = None


class MeanOfNumbers:
    """Trainers that each know one number; their mean is learned. The loss is a trainer's distance from the guess."""

    name = "mean-of-numbers"
    additive = False
    parameters = None

    def init(self, task: Any, seed: int) -> Guess:
        return Guess()

    def ask(self, state: Guess) -> Plan:
        return Plan(Train(GradientLearner()), {"model": np.array([state.value])})

    def tell(self, state: Guess, update: Update) -> Guess:
        if "model" not in update.arrays:
            raise Rejected("arrays", "expected a model")
        return replace(state, told=(*state.told, (update.trainer, float(update.arrays["model"][0]))))

    def close(self, state: Guess, members: Collection[str]) -> Guess:
        numbers = [number for trainer, number in sorted(state.told) if trainer in members]
        if not numbers:
            return replace(state, told=())
        loss = sum(abs(number - state.value) for number in numbers)
        coverage = len(numbers) / len(members)
        evaluation = Evaluation(np.array([state.value]), loss, 0, len(numbers), coverage, -loss, -loss, -loss, 0.0)
        return Guess(sum(numbers) / len(numbers), (), evaluation)

    def evaluation(self, state: Guess) -> Evaluation | None:
        return state.evaluation


class Scene:
    """The state machine of a run, and its clock."""

    def __init__(
        self,
        *,
        term: int = 2,
        round: int = 1,
        accepted: Collection[tuple[int, str]] = (),
        state: Guess | None = None,
        members: int = 0,
        away: Collection[str] = (),
        invitations: Collection[Invitation] = (),
        **chosen: Any,
    ) -> None:
        limits = {"rounds_max": 100, "min_trainers": 2, **chosen}
        self.config = run_config("run", TASK, MeanOfNumbers.name, seed=7, **limits)
        self.roster, self.now = Roster(FORGET_S, self.config.limits.rounds_late, self.config.limits.select), 0.0
        for name in away:
            self.roster.restore(name, 2, 1, self.now)
        self.model_digests = {
            number: bytes([number] * 32) for number in range(1, round)
        }  # of what earlier rounds published
        self.rounds = Rounds(
            self.config,
            term,
            MeanOfNumbers(),
            state or Guess(),
            self.roster,
            round=round,
            accepted=accepted,
            counted=sum(number == round for number, _ in accepted),
            members=members,
            model_digests=self.model_digests,
            invitations=invitations,
        )

    def take(self, incoming: Input, at: float | None = None) -> Output:
        self.now = self.now if at is None else at
        self.rounds.step(incoming, self.now, WALL + self.now)
        output = self.rounds.take_output()
        for _, message in sent(output, Round):
            self.model_digests[message.round] = digest_of(message.arrays)
        return output

    def model_digest(self, round: int) -> bytes:
        """What names the model that a round published, or will."""
        guess = np.array([self.rounds._state.value])
        return self.model_digests.get(round) or digest_of(pack({"model": guess}).infos)

    def hear(self, message: Message, *numbers: float, at: float | None = None) -> Output:
        arrays = {"model": np.array(numbers)} if numbers else None
        return self.take(MessageReceived(decode(encode("up/run/", message, arrays))), at)

    def hello(self, name: str, *, round: int = 0, at: float | None = None, labels: tuple[str, ...] = ()) -> Output:
        message = Hello(run="run", term=2, trainer=name, num_examples=2, round=round, version="test", labels=labels)
        return self.hear(message, at=at)

    def result(
        self, name: str, round: int, number: float = 1.0, *, attempt: int = 1, at: float | None = None
    ) -> Output:
        return self.hear(self.result_of(name, round, attempt=attempt), number, at=at)

    def result_of(self, name: str, round: int, **others: Any) -> Result:
        """A result's header."""
        fields = {"run": "run", "term": 2, "trainer": name, "round": round, "num_examples": 2, "attempt": 1}
        return Result(
            **{**fields, "train_s": 0.1, "model_digest": self.model_digest(round), "fraction_bits": 16, **others}
        )

    def present(self, name: str, present: bool, at: float | None = None, *, inboxes: int = 1) -> Output:
        return self.hear(Presence(trainer=name, present=present, inboxes=inboxes if present else 0), at=at)


def opened(*names: str, **chosen: Any) -> Scene:
    """A scene whose round 1 is open for `names`."""
    scene = Scene(min_trainers=chosen.pop("min_trainers", len(names)), **chosen)
    scene.take(BrokerConnected())
    for name in names:
        scene.hello(name)
        scene.present(name, True)
    assert scene.rounds.phase is Phase.COLLECTING
    return scene


def sent(output: Output, kind: type[Kind]) -> list[tuple[str, Kind]]:
    packets = [decode(frames) for frames in output.sends]
    return [(packet.topic, packet.message) for packet in packets if isinstance(packet.message, kind)]


def told(output: Output, kind: type[Kind]) -> list[Kind]:
    return [event for event in output.events if isinstance(event, kind)]


def kept(output: Output) -> list[tuple[int, str, int]]:
    return [record[:3] for record in output.records if isinstance(record, StoredResult)]


def closes(output: Output) -> list[Close]:
    return [record for record in output.records if isinstance(record, Close)]
