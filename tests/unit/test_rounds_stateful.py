"""The rules of the rounds under any sequence of inputs, with crashes of the aggregator.

The invariants are checked after every step, from the inputs and outputs of the machine alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import Phase as Phase_
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from rounds_scene import Scene

from fedmq.aggregator.event_publisher import REJECTION_EVENTS_MAX
from fedmq.aggregator.machine import Input, Output, Phase
from fedmq.aggregator.rounds import RESENT_ROUNDS
from fedmq.errors import Rejected
from fedmq.observe import events
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import (
    Accepted,
    Beacon,
    Control,
    Finished,
    Goodbye,
    Hello,
    Message,
    Presence,
    Refused,
    Round,
)
from fedmq.runs.records import Close, Record, StoredResult
from fedmq.transport.link import BrokerConnected, BrokerDisconnected, MessageReceived, MessageRejected, Tick

NAMES = st.sampled_from(["alice", "bob", "carol", "dave", "erin"])
ROUNDS_MAX = 6
DELAYS_S = st.sampled_from([0.0, 0.001, 0.1, 0.25, 1.0, 4.0, 40.0])


@dataclass
class Opened:
    """The open round."""

    round: int
    at: float
    invited: int
    deadline_s: float
    names: set[str] = field(default_factory=set)  # of the invited; empty in the step that opens it


class RoundsMachine(RuleBasedStateMachine):
    """A run's rounds, what is on disk of them, and what was said."""

    def __init__(self) -> None:
        super().__init__()
        self.saved: dict[tuple[int, str], int] = {}  # (round, trainer): counted in
        self.closed: list[Close] = []
        self.told: list[events.AnyEvent] = []  # in this life
        self.numbers: dict[str, float] = {}
        self.highest, self.term = 1, 1
        self.opened: Opened | None = None

    @initialize(
        quorum=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
        trainers=st.integers(1, 3),
        staleness=st.integers(0, 2),
        deadline_s=st.sampled_from([2.0, None]),
    )
    def begin(self, quorum: float, trainers: int, staleness: int, deadline_s: float | None) -> None:
        self.chosen: dict[str, Any] = {
            "quorum": quorum,
            "min_trainers": trainers,
            "staleness": staleness,
            "rounds_max": ROUNDS_MAX,
            "deadline_s": deadline_s,
        }
        self.scene = Scene(term=self.term, **self.chosen)

    # --- what comes ---------------------------------------------------------------------------------------------

    @rule(name=NAMES, round=st.integers(0, ROUNDS_MAX))
    def hello(self, name: str, round: int) -> None:
        self.hear(Hello(run="run", term=self.term, trainer=name, num_examples=2, round=round, version="test"))

    @rule(name=NAMES, behind=st.integers(-1, 3), attempt=st.integers(1, 3), terms=st.integers(-2, 1))
    def result(self, name: str, behind: int, attempt: int, terms: int) -> None:
        number, term = max(0, self.rounds.round - behind), max(0, self.term + terms)
        self.hear(
            self.scene.result_of(name, number, term=term, attempt=attempt),
            model=1.0,
        )

    @rule(names=st.lists(NAMES, min_size=2, unique=True))
    def everybody_answers(self, names: list[str]) -> None:
        number = self.rounds.round
        for name in names:
            self.hear(
                self.scene.result_of(name, number, term=self.term),
                model=1.0,
            )

    @rule(name=NAMES)
    def an_impossible_result(self, name: str) -> None:
        number = max(1, self.rounds.round)
        self.hear(
            self.scene.result_of(name, number, term=self.term),
            other=1.0,
        )

    @rule(name=NAMES, present=st.booleans())
    def presence(self, name: str, present: bool) -> None:
        self.hear(Presence(trainer=name, present=present))

    @rule(name=NAMES)
    def goodbye(self, name: str) -> None:
        self.hear(Goodbye(run="run", term=self.term, trainer=name))

    @rule(name=NAMES)
    def what_is_for_others(self, name: str) -> None:
        self.hear(Goodbye(run="other", term=1, trainer=name))
        self.hear(Finished(run="run", term=1, rounds=3, solved=True))
        self.take(MessageRejected(Rejected("frames", "too few")))

    @rule(wait_s=DELAYS_S)
    def time_passes(self, wait_s: float) -> None:
        self.scene.now += wait_s
        self.take(Tick())

    @rule()
    def the_next_wake_up(self) -> None:
        self.scene.now = max(self.scene.now, self.rounds.wake_at or 0.0)
        self.take(Tick())

    @rule(event=st.sampled_from([BrokerConnected(), BrokerConnected(), BrokerDisconnected()]))
    def broker(self, event: Input) -> None:
        self.take(event)

    @rule(action=st.sampled_from(["pause", "resume", "resume", "stop"]), seldom=st.integers(0, 4))
    def control(self, action: Literal["pause", "resume", "stop"], seldom: int) -> None:
        if action != "stop" or seldom == 0:
            self.hear(Control(run="run", term=self.term, action=action))

    @rule()
    def the_aggregator_is_killed_and_starts_again(self) -> None:
        """From what is on disk, as `service` does."""
        self.term += 1
        number = len(self.closed) + 1
        state, now = self.rounds._state, self.scene.now
        accepted = {key for key in self.saved if key[0] >= number - self.chosen["staleness"] - 1}
        members = len(self.closed[-1].members) if self.closed else 0
        self.scene = Scene(round=number, accepted=accepted, state=state, members=members, term=self.term, **self.chosen)
        self.scene.rounds._published.digests = self.scene.model_digests = {
            close.round: close.model_digest for close in self.closed
        }
        self.scene.rounds._counted = list(self.saved.values()).count(number)
        self.scene.now = now
        for name in sorted({name for _, name in self.saved}):
            self.scene.roster.restore(name, 2, 1, now)
        self.told, self.opened = [], None
        self.take(Tick())

    # --- what must hold -----------------------------------------------------------------------------------------

    @property
    def rounds(self) -> Any:
        return self.scene.rounds

    def hear(self, message: Message, **numbers: float) -> None:
        arrays = {name: np.array([number]) for name, number in numbers.items()}
        self.take(MessageReceived(decode(encode("up/run/", message, arrays))))

    def take(self, event: Input) -> None:
        was_finished = self.rounds.phase is Phase.FINISHED
        names = self.opened.names if self.opened else set[str]()
        self.expected = {name for name in names if self.scene.roster.is_expected(name)}
        output = self.scene.take(event)
        assert not (was_finished and output.records), "nothing is saved after the end"
        self.check_rounds(output)
        for frames in output.sends:
            self.check_sent(decode(frames).message)
        self.told += output.events
        assert not was_finished or self.rounds.phase is Phase.FINISHED, "the end is the end"
        assert self.rounds.round >= self.highest, "the round never falls"
        self.highest = self.rounds.round

    def check_rounds(self, output: Output) -> None:
        """What was saved, opened and closed in a step, in its order: it may open a round that is answered already."""
        saves = iter(output.records)
        for event in output.events:
            if isinstance(event, events.ResultAccepted):
                self.check_result(next(saves))
            elif isinstance(event, events.RoundPublished):
                assert self.opened is None, "one round is open at a time"
                assert event.invited >= self.chosen["min_trainers"], "enough are here"
                assert not self.rounds.paused, "a paused run opens none"
                self.expected = set()
                self.opened = Opened(event.round, self.scene.now, event.invited, self.rounds._deadline_s)
            elif isinstance(event, events.RoundClosed):
                self.check_close(next(saves))
        assert next(saves, None) is None, "all that is saved is told"
        if self.opened is not None:
            self.opened.names = set(self.rounds._participants.awaited)
            assert self.opened.round == self.rounds.round

    def check_result(self, save: Record) -> None:
        assert isinstance(save, StoredResult)
        key = (save.round, save.trainer)
        assert key not in self.saved, "each result is saved once"
        assert save.counted_in == len(self.closed) + 1, "it counts in the round that is open"
        assert 0 <= save.counted_in - save.round <= self.chosen["staleness"], "it is not too late"
        self.saved[key] = save.counted_in

    def check_close(self, close: Record) -> None:
        assert isinstance(close, Close)
        opened, self.opened = self.opened, None
        assert opened is not None, "what was not opened is not closed"
        assert close.round == opened.round == len(self.closed) + 1, "rounds close one after the other"
        assert close.results == list(self.saved.values()).count(close.round), "it counts what is saved"
        answered = {trainer for number, trainer in self.saved if number == close.round}
        quorum = max(1, math.ceil(self.chosen["quorum"] * opened.invited))
        assert len(answered) >= quorum, "no round closes without its quorum"
        if close.why == "deadline":
            assert self.scene.now >= opened.at + opened.deadline_s, "nor before its deadline,"
        else:
            expected = {name for name in self.expected if self.scene.roster.is_expected(name)}  # before and after
            assert expected <= answered, "unless all that are present, and not refused, have answered"
        assert set(close.members) <= {trainer for _, trainer in self.saved}, "who never answered does not count"
        self.closed.append(close)

    def check_sent(self, message: Message) -> None:
        if isinstance(message, Accepted):
            assert (message.round, message.trainer) in self.saved, "what is acknowledged is saved"
        elif isinstance(message, Refused):
            zombie = message.reason == "term"  # an aggregator that receives a higher term refuses it
            forgotten = message.round < self.rounds.round - self.chosen["staleness"] - 1
            saved = (message.round, message.trainer) in self.saved
            assert zombie or forgotten or not saved, "what is saved is not refused"
        elif isinstance(message, Beacon | Round):
            number = message.round - isinstance(message, Round)
            for trainer in self.scene.roster.trainers:
                bits = message.acknowledged
                if trainer.index // 8 < len(bits) and bits[trainer.index // 8] >> trainer.index % 8 & 1:
                    assert (number, trainer.name) in self.saved, "a bit stands for a saved result"
        elif isinstance(message, Finished):
            assert self.rounds.phase is Phase.FINISHED
            assert message.rounds == len(self.closed)

    @invariant()
    def it_is_bounded(self) -> None:
        if not hasattr(self, "scene"):
            return
        recent = RESENT_ROUNDS + 1
        assert len(self.rounds._accepted) <= recent
        assert sum(isinstance(event, events.ResultRejected) for event in self.told) <= REJECTION_EVENTS_MAX
        assert sum(isinstance(event, events.RunFinished) for event in self.told) <= 1, "the end is told once a life"

    @invariant()
    def it_never_asks_to_be_woken_in_the_past(self) -> None:
        if hasattr(self, "scene"):
            wake_at = self.rounds.wake_at
            assert wake_at is None or wake_at > self.scene.now


TestRounds = RoundsMachine.TestCase
TestRounds.settings = settings(
    max_examples=300,
    stateful_step_count=60,
    derandomize=True,  # the same sequences in every run; what fails is printed as a program
    deadline=None,
    phases=(Phase_.generate, Phase_.shrink),
    suppress_health_check=list(HealthCheck),
)
