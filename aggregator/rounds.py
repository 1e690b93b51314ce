"""The rounds of a run, as a state machine without sockets, files or clocks: events and `now` in, effects out.

Knows nothing of how results are learnt from (that is the strategy's) or of how anything is stored or sent.

    SELECTION   waits until `min_trainers` are present                  -> opens the round: COLLECTING
    COLLECTING  takes each (round, trainer) once, in any order;         -> CLOSING when everybody invited who is still
                late results up to `staleness` rounds count here           present has answered, or at the deadline,
                                                                           and in both cases a quorum has answered
    CLOSING     the strategy makes the next round of what came          -> SELECTION, or FINISHED when the target is
                (within one step: nobody sees it from outside)             reached or the rounds are used up
    FINISHED    answers everybody that the run is over

`step` gives effects in the order that is part of the contract: **save before send**. An acknowledgement may leave only
after the result is on disk, a round only after the close of the one before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from fedmq.aggregator.deadline import Pace
from fedmq.aggregator.machine import (
    BrokerDown,
    BrokerUp,
    Effects,
    Event,
    Heard,
    KeepClose,
    KeepResult,
    Malformed,
    Phase,
)
from fedmq.aggregator.outbox import Voice
from fedmq.aggregator.roster import Introduction, Roster
from fedmq.aggregator.run_events import Chronicle
from fedmq.algorithms.base import Evaluation, Plan, Strategy
from fedmq.errors import Rejected
from fedmq.observe.events import End, Why
from fedmq.protocol import topics
from fedmq.protocol.codec import Packet, describe, digest_of
from fedmq.protocol.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    Control,
    FromTrainer,
    Goodbye,
    Hello,
    Presence,
    Result,
    common_version,
    version_text,
)
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.updates import as_update
from fedmq.runtime.clock import earliest


class Rounds:
    """One run's rounds, in one term.

    `state` is the strategy's, `round` the number of the round to open next; `accepted` holds the (round, trainer)
    pairs that the store knows and that are recent enough to come again; `counted` says how many of them the close of
    `round` will use; `members` counted at the last close; `answer_s` are seconds that rounds took; `bases` say what the
    rounds published whose results may still come late.
    """

    def __init__(
        self,
        config: RunConfig,
        term: int,
        strategy: Strategy[Any],
        state: Any,
        roster: Roster,
        *,
        code: bytes | None = None,
        round: int = 1,
        accepted: Iterable[tuple[int, str]] = (),
        counted: int = 0,
        members: int = 0,
        answer_s: Iterable[float] = (),
        model_digests: Mapping[int, bytes] | None = None,
    ) -> None:
        self.config, self.term, self.roster, self.round = config, term, roster, round
        self.phase = Phase.WAITING
        self.solved = self.paused = False
        self._acked_request = 0  # the operator's last word
        self._keep_state = False  # at the next close, whatever its number
        self._strategy, self._state = strategy, state
        self._plan: Plan | None = None
        self._model_digests = dict(model_digests or {})  # by round
        self._accepted = set(accepted)
        self._answered = {trainer for number, trainer in self._accepted if number == round}
        self._counted = counted
        self._invited: set[str] = set()
        self._opened_at = 0.0
        self._deadline_s = 0.0
        self._pace = Pace(config.limits.deadline_s, answer_s)
        self._deadline: float | None = None
        self._broker_up = False
        self._beacon_at = 0.0
        self._voice = Voice(config, term, code)
        self._chronicle = Chronicle(self._voice, config.task)
        if (evaluation := self.evaluation) is not None and round > 1:
            self._finish_if_over(evaluation, members, 0.0)

    @property
    def evaluation(self) -> Evaluation | None:
        """The candidate that would be deployed now, or None."""
        return self._strategy.evaluation(self._state)

    @property
    def rejections(self) -> dict[str, int]:
        """How much could not be used, by reason."""
        return self._chronicle.rejections

    @property
    def wake_at(self) -> float | None:
        """When the next `Tick` is due, at the latest."""
        if self.phase is Phase.FINISHED or not self._broker_up:
            return None
        return earliest(self._beacon_at, self._deadline, self.roster.grace_until)

    def step(self, event: Event, now: float) -> Effects:
        """Take one event; what follows from it."""
        if isinstance(event, Heard):
            self._heard(event.packet, now)
        elif isinstance(event, Malformed):
            self._reject("", event.rejected)
        elif isinstance(event, BrokerUp):
            self._on_broker(now)
        elif isinstance(event, BrokerDown):
            self._lose_broker()
        for name in self.roster.expire(now) if self._broker_up else ():  # without a broker nobody can be seen
            self._chronicle.left(name)
        self._advance(now)
        if self._broker_up and self._chronicle.has_stalled(now):
            self._chronicle.stalled(self.round, self._invited - self._answered)
        if self._broker_up and now >= self._beacon_at and self.phase is not Phase.FINISHED:
            self._send_beacon(topics.beacon_of(self.config.run))
            self._beacon_at = now + self.config.limits.beacon_s
        return self._voice.take()

    # --- what comes ---------------------------------------------------------------------------------------------

    def _heard(self, packet: Packet, now: float) -> None:
        message = packet.message
        if isinstance(message, Presence):
            self._presence(message, now)
            return
        if isinstance(message, Control):
            self._control(message, now)
            return
        if not isinstance(message, FromTrainer):
            self._reject("", Rejected("header", f"{type(message).__name__} is not for an aggregator"))
            return
        try:
            self._check_run(message)
            if isinstance(message, Hello):
                self._hello(message, now)
            elif isinstance(message, Result):
                self._result(message, packet, now)
            elif self.roster.leave(message.trainer, now, for_good=True):
                self._chronicle.left(message.trainer, goodbye=True)
        except Rejected as rejected:
            self._reject(message.trainer, rejected)
            # A refusal is about a round of this run: of another run's result it would make a trainer forget this one's.
            if isinstance(message, Result) and message.run == self.config.run:
                self._voice.refused(message, rejected)

    def _control(self, message: Control, now: float) -> None:
        """An operator wants something: a paused run closes the round that is open, and opens no other."""
        ours = (message.run, message.term) == (self.config.run, self.term)
        if not ours or self.phase is Phase.FINISHED:  # what was said to an earlier life may only have been held back
            return
        if message.action == "stop":
            self._finish(self.evaluation, "stopped")
        elif message.action == "checkpoint":
            self._keep_state = True
        elif message.action in ("pause", "resume"):
            if self.paused is not (message.action == "pause"):
                self.paused = not self.paused
                self._chronicle.paused(self.paused)
        elif message.trainer is not None:
            self._bar(message.trainer, message.action)
        self._acked_request = message.request_id
        self._beacon_at = now  # so that who asked sees it at once

    def _bar(self, name: str, action: str) -> None:
        """Who is drained may still answer the open round, who is banned none; who is readmitted all from now on."""
        following = self.round + (self.phase is Phase.COLLECTING)
        if self.roster.bar(name, {"drain": following, "ban": 0}.get(action)):
            self._chronicle.barred(name, action)
        if action == "ban" and name not in self._answered:
            self._invited.discard(name)

    def _check_run(self, message: FromTrainer) -> None:
        if message.run != self.config.run:
            raise Rejected("run", f"expected {self.config.run}, got {message.run}")
        if message.term > self.term:
            raise Rejected("term", f"{message.term} is above {self.term}: a later aggregator has this run")
        if isinstance(message, Goodbye) and message.term < self.term:  # it may be an old one, sent again
            raise Rejected("term", f"expected a goodbye to {self.term}, got one to {message.term}")

    def _lose_broker(self) -> None:
        if self._broker_up:  # else whoever a new one has shown since would be in doubt again
            self.roster.mark_unconfirmed()
        self._broker_up = False

    def _on_broker(self, now: float) -> None:
        self._lose_broker()  # it may be a new one without a word that the old one was gone
        self.roster.begin_grace(now, self.config.limits.grace_s)
        self._broker_up = True
        self._beacon_at = now
        if self.phase is Phase.COLLECTING:
            self._send_round(topics.round_of(self.config.run))
        elif self.phase is Phase.FINISHED:
            self._send_finished(topics.round_of(self.config.run))

    def _presence(self, message: Presence, now: float) -> None:
        name = message.trainer
        if not message.present:
            if self.roster.leave(name, now):
                self._chronicle.left(name)
        elif name in self.roster:
            self._meet(name, self.roster[name].num_examples, now, confirmed=True)
        else:
            self._send_beacon(topics.inbox_of(name))

    def _hello(self, message: Hello, now: float) -> None:
        if not self.roster.may_ask(message.trainer, now):
            return
        if common_version(message.versions) is None:
            here = version_text(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION)
            there = version_text(*message.versions)
            rejected = Rejected(
                "version",
                f"expected a trainer that reads protocol version {here}, "
                f"{message.trainer} reads {there}: upgrade the older of the two",
            )
            self._reject(message.trainer, rejected)
            self._voice.refused(message, rejected)
            return
        self._meet(message.trainer, message.num_examples, now, words=(message.version, message.labels))
        inbox = topics.inbox_of(message.trainer)
        if self.phase is Phase.FINISHED:
            self._send_finished(inbox)
            return
        self._voice.welcome(message.trainer, self.roster[message.trainer].index)
        barred = self.roster.is_barred(message.trainer, self.round)
        if self.phase is Phase.COLLECTING and message.round < self.round and not barred:
            self._send_round(inbox)

    def _result(self, message: Result, packet: Packet, now: float) -> None:
        name, key = message.trainer, (message.round, message.trainer)
        if name not in self.roster:
            self._meet(name, message.num_examples, now)
            self._voice.welcome(name, self.roster[name].index)
        elif not self.roster[name].gone:
            self._meet(name, message.num_examples, now)
        if key in self._accepted:
            self.roster[name].resent += 1
            self._chronicle.resent(message)
            self._voice.accepted(message)
            return
        staleness = self._staleness(message)
        update = as_update(message, packet.arrays, self.round, additive=self._strategy.additive)
        self._state = self._strategy.tell(self._state, update)
        self._accepted.add(key)
        self._counted += 1
        answer_s = 0.0
        if not staleness:
            self._answered.add(name)
            if self.phase is Phase.COLLECTING:
                answer_s = now - self._opened_at
                self._pace.took(answer_s)
        if self.roster[name].gone and message.term == self.term and message.attempt == 1:
            self._meet(name, message.num_examples, now)  # the goodbye was of one that it replaces
        self.roster.count(name, message.num_examples, late=staleness > 0, again=message.attempt > 1)
        self._voice.keep(KeepResult(message.round, name, self.round, packet.frames))
        self._chronicle.accepted(message, staleness, answer_s, now)
        if staleness:  # one in time is acknowledged by the next round or beacon
            self._voice.accepted(message)

    def _staleness(self, message: Result) -> int:
        """How many rounds late a result is that can be used."""
        self.roster.check_barred(message.trainer, message.round)
        staleness = self.round - message.round
        if self.phase is Phase.FINISHED or not 0 <= staleness <= self.config.limits.staleness or message.round < 1:
            late = f"round {message.round} is not one of the last {self.config.limits.staleness + 1} up to {self.round}"
            raise Rejected("round", "the run is over" if self.phase is Phase.FINISHED else late)
        if message.model_digest != self._model_digest(message.round):
            raise Rejected("model-digest", f"computed on another model than round {message.round} published")
        most = self.config.limits.num_examples_max
        if most is not None and message.num_examples > most:
            raise Rejected("values", f"expected at most {most} rows, got {message.num_examples}")
        return staleness

    def _model_digest(self, number: int) -> bytes | None:
        """What names the model or pool that this round published; None when its close has been dropped."""
        if number == self.round and number not in self._model_digests:  # the round is about to be opened again
            return digest_of(describe(self._strategy.ask(self._state).arrays))
        return self._model_digests.get(number)

    # --- how a round goes on ------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        """Open or close as far as it goes."""
        if self.phase is Phase.WAITING and self._broker_up and not self.paused:
            present = len(self.roster.eligible(self.round))
            if present >= self.config.limits.min_trainers:
                self._open(now)
            else:
                self._chronicle.waits(present, self.config.limits.min_trainers)
        if self.phase is Phase.COLLECTING and (why := self._closes(now)):
            self.phase = Phase.CLOSING
            self._close(why, now)
            if self.phase is Phase.WAITING:
                self._advance(now)

    def _open(self, now: float) -> None:
        self.phase = Phase.COLLECTING
        self._plan = self._strategy.ask(self._state)
        self._model_digests[self.round] = digest_of(describe(self._plan.arrays))
        self._invited = set(self.roster.eligible(self.round))
        self._opened_at = now
        self._deadline_s = self._pace.deadline_s
        self._deadline = now + self._deadline_s
        self._send_round(topics.round_of(self.config.run))
        self._beacon_at = now + self.config.limits.beacon_s
        self._chronicle.opened(self.round, len(self._invited), now)

    def _closes(self, now: float) -> Why | None:
        """Why the open round closes now, or None."""
        quorum = max(1, math.ceil(self.config.limits.quorum * len(self._invited)))
        if len(self._answered) < quorum:
            if self._deadline is not None and now >= self._deadline:
                self._deadline = None  # from now on the quorum alone decides
            return None
        if not any(name in self.roster and self.roster[name].present for name in self._invited - self._answered):
            return "complete"
        return "deadline" if self._deadline is None or now >= self._deadline else None

    def _close(self, why: Why, now: float) -> None:
        silent = self._invited - self._answered
        for name in self.roster.time_out(silent, now):
            self._chronicle.left(name)
        members = tuple(self.roster.members(now, self.round))
        self._state = self._strategy.close(self._state, members)
        evaluation, round_s, model_digest = self.evaluation, now - self._opened_at, self._model_digests[self.round]
        close = (
            self.round,
            why,
            members,
            self._counted,
            round_s,
            evaluation,
            model_digest,
            self._state,
            self._keep_state,
        )
        self._voice.keep(KeepClose(*close))
        present = self.roster.present
        self._chronicle.closed(
            self.round,
            why,
            results=self._counted,
            round_s=round_s,
            present=len(present),
            suspects=silent.intersection(present),
            evaluation=evaluation,
        )
        self.round += 1
        self._answered, self._counted, self._keep_state, self._deadline, self._plan = set(), 0, False, None, None
        oldest = self.round - self.config.limits.staleness - 1
        self._accepted = {key for key in self._accepted if key[0] >= oldest}
        self._model_digests = {
            number: model_digest for number, model_digest in self._model_digests.items() if number >= oldest
        }
        self.phase = Phase.WAITING
        self._finish_if_over(evaluation, len(members), now)

    def _finish_if_over(self, evaluation: Evaluation | None, members: int, now: float) -> None:
        """The target counts only when every row of every member, and of everybody present, has been looked at.

        And when there are as many members as the run is for: half of XOR is learnt by anybody, and worth nothing.
        """
        self.solved = (
            evaluation is not None
            and members >= self.config.limits.min_trainers
            and evaluation.coverage >= 1.0
            and not self.roster.pending(now, self.round)
            and self.config.task.reached(evaluation.loss, evaluation.correct, evaluation.rows)
        )
        if self.solved or self.round > self.config.limits.rounds_max:
            self._finish(evaluation, "solved" if self.solved else "rounds")

    def _finish(self, evaluation: Evaluation | None, why: End) -> None:
        self.phase = Phase.FINISHED
        self._chronicle.finished(evaluation, self.round - 1, why)
        self._send_finished(topics.round_of(self.config.run))

    # --- what leaves --------------------------------------------------------------------------------------------

    def _meet(
        self, name: str, num_examples: int, now: float, *, confirmed: bool = False, words: Introduction | None = None
    ) -> None:
        if self.roster.join(name, num_examples, now, confirmed=confirmed, words=words):
            self._chronicle.joined(self.roster[name])

    def _send_round(self, topic: str) -> None:
        assert self._plan is not None
        self._voice.round(topic, self.round, self._plan, self._deadline_s, self._acknowledged(self.round - 1))

    def _send_finished(self, topic: str) -> None:
        self._voice.finished(topic, self.round - 1, solved=self.solved)

    def _send_beacon(self, topic: str) -> None:
        opened = self.phase is Phase.COLLECTING
        number = self.round if opened else self.round - 1
        acknowledged = self._acknowledged(number)
        self._voice.beacon(
            topic,
            number,
            self.roster,
            acknowledged,
            opened=opened,
            paused=self.paused,
            acked_request=self._acked_request,
        )

    def _acknowledged(self, number: int) -> bytes:
        """The bitmap of those whose result of round `number` is saved by the time that it is sent."""
        return self.roster.bitmap(lambda name: (number, name) in self._accepted)

    def _reject(self, trainer: str, rejected: Rejected) -> None:
        if trainer in self.roster:
            self.roster[trainer].rejected += 1
        self._chronicle.rejected(trainer, rejected)
