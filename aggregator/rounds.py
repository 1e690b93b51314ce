"""The rounds of a run: a state machine without I/O. Inputs and the time go in, an `Output` comes out.

WAITING     until `min_trainers` are present                        -> COLLECTING: opens the round
COLLECTING  accepts each (round, trainer) once, in any order;       -> CLOSING: every invited trainer that is
            results up to `staleness` rounds late count here           present has answered, or the deadline has
                                                                       passed; either way with a quorum. Or
                                                                       `buffer` results have arrived
CLOSING     the strategy turns the results into the next round      -> WAITING, or FINISHED: the target is reached
            (within one step)                                          or no rounds are left
FINISHED    answers every message with Finished

In any phase, the run also finishes, as failed, when all its trainers have left or declined it and none has returned for
a while. With `wait_s`, it ends unfinished when too few trainers have been present for that long.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, assert_never

from fedmq.aggregator.deadline import AdaptiveDeadline
from fedmq.aggregator.departures import DECLINES, Departure, failure_text, shortage_text
from fedmq.aggregator.ending import Patience, end_of
from fedmq.aggregator.event_publisher import EventPublisher
from fedmq.aggregator.machine import EndRun, Input, Output, Phase
from fedmq.aggregator.outbox import Outbox
from fedmq.aggregator.participants import Participants
from fedmq.aggregator.published_rounds import PublishedRounds
from fedmq.aggregator.roster import Introduction, Roster
from fedmq.aggregator.sampling import Invitations, sample_size
from fedmq.algorithms.base import Evaluation, Strategy, failure_of, is_finished
from fedmq.algorithms.checkpoint import dump
from fedmq.algorithms.differences import Difference
from fedmq.algorithms.findings import Findings
from fedmq.errors import LeaveReason, Rejected, leave_reason
from fedmq.observe import events
from fedmq.observe.run_state import RunState
from fedmq.protocol import messages, topics
from fedmq.protocol.codec import Packet, unsigned
from fedmq.protocol.fixed_point import count_saturated
from fedmq.protocol.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    Control,
    FromTrainer,
    Goodbye,
    Hello,
    Presence,
    Result,
    SumReply,
    common_version,
    version_text,
)
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.records import Checkpoint, Close, DropOldRounds, Invitation, StoredResult, as_update
from fedmq.runtime.clock import earliest
from fedmq.transport.link import (
    BrokerConnected,
    BrokerDisconnected,
    MessageReceived,
    MessageRejected,
    StopRequested,
    Tick,
)

CHECKPOINT_ROUNDS = 100
RESENT_ROUNDS = 17  # for so long a stored result that is sent again is acknowledged: more than any staleness
SPREAD_S, SPREAD_MAX_S = 0.001, 10.0  # per trainer on the roster: trainers that reconnect together wait a random part
DUPLICATE = "several trainers use this name: give each its own --name, and with keys its own folder of keys"
FAREWELL_S = 2.0  # how long a finished run waits for a broker that is down, to send Finished


class Rounds:
    """The rounds of one run, in one term.

    `state` is the strategy's and `round` the next round to open. `accepted` holds the stored (round, trainer) pairs
    that may be sent again, `counted` the number of them that the close of `round` will use. `members` is the number of
    members at the last close, `answer_s` how long rounds took, `model_digests` what the rounds published whose results
    may still arrive, `invitations` those to sampled rounds. `again` is set if the run has had an earlier life. With
    `wait_s`, the first round of this life waits so long for all trainers that the task intends, and the run never waits
    longer for `min_trainers`.
    """

    version_min = PROTOCOL_VERSION_MIN  # that a trainer must read

    def __init__(
        self,
        config: RunConfig,
        term: int,
        strategy: Strategy[Any],
        state: Any,
        roster: Roster,
        *,
        code: bytes | None = None,
        sign: Callable[[bytes], bytes] = unsigned,
        run_state: RunState | None = None,
        again: bool = False,
        wait_s: float | None = None,
        round: int = 1,
        accepted: Iterable[tuple[int, str]] = (),
        counted: int = 0,
        members: int = 0,
        answer_s: Iterable[float] = (),
        model_digests: Mapping[int, bytes] | None = None,
        invitations: Iterable[Invitation] = (),
    ) -> None:
        self.config, self.term, self.roster, self.round = config, term, roster, round
        self.phase = Phase.WAITING
        self.solved = self.paused = self.stopped = False
        self.why: events.End | None = None  # the run is over
        self.failure = ""  # why it cannot go on, or why this life ended before it was over
        self._patience = Patience(wait_s)
        self._connected_at = 0.0
        self._fails_at: float | None = None  # when the run ends because all its trainers have left or declined it
        self.bytes_received = 0
        self._now = self._wall = 0.0  # of the step
        self._acked_request = 0  # of the last control command
        self._checkpoint_next = False  # a control command asked for one at the next close
        self._strategy, self._state = strategy, state
        self._accepted: dict[int, set[str]] = {}  # names by round
        for number, name in accepted:
            self._accepted.setdefault(number, set()).add(name)
        self._resent = set[tuple[int, str]]()  # those that were sent again
        self._counted = counted
        self._invitations = Invitations(config.seed, invitations)
        self._participants = Participants(self._accepted.get(round, ()))
        self._opened_at = 0.0
        self._deadline_s = 0.0
        self._adaptive_deadline = AdaptiveDeadline(config.limits.deadline_s, answer_s)
        self._deadline: float | None = None
        self._broker_up = False
        self._beacon_at = 0.0
        self._farewell_by: float | None = None  # set by the first step of a finished run
        self._farewell_sent = False
        self._outbox = Outbox(config, term, code, sign)
        self._published = PublishedRounds(config.task, self._outbox.pack, model_digests or {})
        self._publisher = EventPublisher(self._outbox, config.task, run_state)
        self.rejections = self._publisher.rejections  # the number of unusable messages, by reason
        self._publisher.report(events.RunStarted(config=config, term=term, again=again, round=round))
        if round > 1:
            if (evaluation := self.evaluation) is not None:
                self._publisher.best = self._publisher.best_of(evaluation)
            self._finish_if_over(evaluation, members)

    @property
    def evaluation(self) -> Evaluation | None:
        """The candidate to deploy, or None."""
        return self._strategy.evaluation(self._state)

    @property
    def state(self) -> Any:
        """The state of the strategy while the round is open."""
        return self._state

    @property
    def findings(self) -> Findings | None:
        """What is known beside the model; None if the algorithm finds nothing else."""
        find = getattr(self._strategy, "findings", None)
        return None if find is None else find(self._state)

    @property
    def differences(self) -> Mapping[str, tuple[Difference, ...]]:
        """How the rows of trainers differ from those of the others, by name."""
        find = getattr(self._strategy, "differences", None)
        return {} if find is None else find(self._state)

    @property
    def best(self) -> events.Best | None:
        """The figures of the evaluation at the last close."""
        return self._publisher.best

    @property
    def bytes_sent(self) -> int:
        """Bytes sent to the broker for trainers."""
        return self._outbox.bytes_sent

    @property
    def done(self) -> bool:
        """Whether the process may end: the run is over and Finished was sent, or it was asked to stop."""
        if self.stopped or self.phase is not Phase.FINISHED:
            return self.stopped
        return self._farewell_sent or (self._farewell_by is not None and self._now >= self._farewell_by)

    @property
    def wake_at(self) -> float | None:
        """When the next `Tick` is due, at the latest."""
        if self.phase is Phase.FINISHED:
            return None if self.done else self._farewell_by
        if not self._broker_up:
            return self._patience.gives_up_at
        return earliest(
            self._beacon_at,
            self._deadline,
            self.roster.grace_until,
            self.roster.contest_until,
            self._publisher.wake_at,
            self._patience.gives_up_at,
            self._fails_at,
        )

    def step(self, incoming: Input, now: float, wall: float) -> None:
        """Apply one input. `now` is monotonic, `wall` in seconds since 1970; `take_output` returns what follows."""
        self.step_all((incoming,), now, wall)

    def step_all(self, arrived: Iterable[Input], now: float, wall: float) -> None:
        """Apply inputs of one moment, and only then look for what follows from them: it takes time for each trainer."""
        self._now, self._wall = now, wall
        for incoming in arrived:
            self._apply(incoming)
        if self._broker_up:  # without a broker no trainer can be seen
            for name in self.roster.end_duplicates(now):
                self._publisher.report(events.TrainerReadmitted(trainer=name))
            for name in self.roster.expire(now):
                self._publisher.left(name)
            for name in self.roster.new_duplicates(now):
                self._publisher.report(events.TrainerBarred(trainer=name, how="duplicated"))
                self._outbox.send_refused_name(name, Rejected("duplicate", DUPLICATE))
        self._patience.begin(now)
        self._advance()
        self._end_if_deserted()
        if self._broker_up:
            self._publisher.check_stalled(self.round, self._participants.missing, now)
        if self.phase is Phase.FINISHED:
            self._farewell_by = now + FAREWELL_S if self._farewell_by is None else self._farewell_by
        elif self._broker_up and now >= self._beacon_at:
            self._send_beacon(topics.BEACONS + self.config.run)
            self._beacon_at = now + self.config.limits.beacon_s

    def take_output(self) -> Output:
        """Return the output of all steps since the last call."""
        self._publisher.apply(self._wall)
        if self._broker_up:
            self._publisher.publish(self._now, last=self.done)
        return self._outbox.take(self._wall)

    # --- inputs ---------------------------------------------------------------------------------------------------

    def _apply(self, incoming: Input) -> None:
        match incoming:
            case MessageReceived(packet, fingerprint):
                self.bytes_received += sum(map(len, packet.frames))
                self._receive(packet, fingerprint)
            case MessageRejected(rejected, nbytes):
                self.bytes_received += nbytes
                self._reject("", rejected)
            case BrokerConnected():
                self._connect()
            case BrokerDisconnected():
                self._disconnect()
            case Tick():
                pass
            case StopRequested():
                self.stopped = True
                self._outbox.commit()
            case EndRun():
                if self.phase is not Phase.FINISHED:
                    self._finish(self.evaluation, "done")
            case _:
                assert_never(incoming)

    def _receive(self, packet: Packet, fingerprint: str) -> None:
        match message := packet.message:
            case Result() | Hello() | Goodbye() | SumReply():
                self._receive_from_trainer(message, packet, fingerprint)
            case Presence():
                self._presence(message)
            case Control():
                self._control(message)
            case (
                messages.Round()
                | messages.Beacon()
                | messages.Finished()
                | messages.Welcome()
                | messages.Accepted()
                | messages.Refused()
                | messages.SumRequest()
                | messages.Events()
                | messages.Snapshot()
            ):
                self._reject("", Rejected("header", f"{type(message).__name__} is not for an aggregator"))
            case _:
                assert_never(message)

    def _receive_from_trainer(self, message: FromTrainer, packet: Packet, fingerprint: str) -> None:
        try:
            self._check_run(message)
            match message:
                case Hello():
                    self._hello(message, fingerprint)
                case Result() if self.roster.is_duplicate(message.trainer):
                    raise Rejected("duplicate", DUPLICATE)
                case Result() if self.roster.is_contested(message.trainer):
                    pass  # it is sent again, and an old connection will have ended by then
                case Result():
                    self._result(message, packet)
                case Goodbye():
                    self._goodbye(message)
                case SumReply():
                    self._sum_reply(message, packet)
                case _:
                    assert_never(message)
        except Rejected as rejected:
            self._reject(message.trainer, rejected)
            # Refused is about a round of this run: sent for another run's result, the trainer would drop this run's.
            if isinstance(message, Result) and message.run == self.config.run:
                self._outbox.send_refused(message, rejected)
                of_round = self.phase is Phase.COLLECTING and message.round == self.round
                if of_round and rejected.reason != "uninvited":
                    reason: LeaveReason = "duplicate" if rejected.reason == "duplicate" else "work"
                    self.roster.refuse(message.trainer, Departure(reason, str(rejected)), self._now)

    def _control(self, message: Control) -> None:
        """Apply a control command, and send a beacon that acknowledges it.

        pause: no further round opens. drain: a trainer is excluded after the open round; ban: at once; readmit: lifts
        either.
        """
        ours = (message.run, message.term) == (self.config.run, self.term)
        if not ours or self.phase is Phase.FINISHED:  # a command to an earlier life may arrive late
            return
        match message.action:
            case "stop":
                self._finish(self.evaluation, "stopped")
            case "checkpoint":
                self._checkpoint_next = True
            case "pause" | "resume":
                if self.paused is not (message.action == "pause"):
                    self.paused = not self.paused
                    self._publisher.report(events.RunPaused() if self.paused else events.RunResumed())
            case "drain" | "ban" | "readmit":
                if message.trainer is not None:
                    self._exclude(message.trainer, message.action)
            case _:
                assert_never(message.action)
        self._acked_request = message.request_id
        self._beacon_at = self._now

    def _exclude(self, name: str, action: Literal["drain", "ban", "readmit"]) -> None:
        match action:
            case "drain":
                if self.roster.bar(name, self.round + (self.phase is Phase.COLLECTING)):
                    self._publisher.report(events.TrainerBarred(trainer=name, how="drained"))
            case "ban":
                if self.roster.bar(name, 0):
                    self._publisher.report(events.TrainerBarred(trainer=name, how="banned"))
                self._participants.exclude(name)
            case "readmit":
                if self.roster.readmit(name):
                    self._publisher.report(events.TrainerReadmitted(trainer=name))
            case _:
                assert_never(action)

    def _check_run(self, message: FromTrainer) -> None:
        if message.run != self.config.run:
            raise Rejected("run", f"expected {self.config.run}, got {message.run}")
        if message.term > self.term:
            raise Rejected("term", f"expected at most {self.term}, got {message.term}: a later aggregator has this run")
        if isinstance(message, Goodbye) and message.term < self.term:  # an old one may be sent again
            raise Rejected("term", f"expected a goodbye to {self.term}, got one to {message.term}")

    def _disconnect(self) -> None:
        if self._broker_up:  # else trainers that a new broker has announced since would be unconfirmed again
            self.roster.mark_unconfirmed()
            self.roster.drop_contests()
        self._broker_up = False

    def _connect(self) -> None:
        self._disconnect()  # a new broker may be up before the old one's end is known
        self.roster.begin_grace(self._now, self.config.limits.grace_s)
        self._broker_up = True
        self._beacon_at = self._connected_at = self._now
        self._publisher.on_broker()
        if self.phase is Phase.COLLECTING:
            self._send_round(topics.ROUNDS + self.config.run)
        elif self.phase is Phase.FINISHED:
            self._send_finished(topics.ROUNDS + self.config.run)

    def _presence(self, message: Presence) -> None:
        name = message.trainer
        if message.inboxes > 1:
            self.roster.contest(name, self._now)
            self._participants.asked.discard(name)
            self._participants.exclude(name)
            return
        if self.roster.settle(name):
            self._publisher.report(events.TrainerReadmitted(trainer=name))
        if not message.present:
            if self.roster.leave(name, self._now):
                self._publisher.left(name)
        elif name in self.roster and not self.roster[name].gone:
            self._join(name, self.roster[name].num_examples, confirmed=True)
        else:
            self._send_beacon(topics.inbox_of(name))

    def _goodbye(self, message: Goodbye) -> None:
        departure = Departure(leave_reason(message.reason), message.detail)
        if self.roster.depart(message.trainer, departure, self._now):
            self._publisher.left(message.trainer, departure)
        is_sampled = self._invitations.of(self.round) is not None  # then another is invited in its place
        if departure.reason in DECLINES and not is_sampled:
            self._participants.exclude(message.trainer)

    def _hello(self, message: Hello, fingerprint: str) -> None:
        if not self.roster.may_ask(message.trainer, self._now):
            return
        if (common_version(message.versions) or 0) < self.version_min:
            here = version_text(self.version_min, PROTOCOL_VERSION)
            there = version_text(*message.versions)
            rejected = Rejected(
                "version",
                f"expected a trainer that reads protocol version {here}, "
                f"{message.trainer} reads {there}: upgrade the older of the two",
            )
            self._reject(message.trainer, rejected)
            self._outbox.send_refused(message, rejected)
            return
        if self.roster.is_contested(message.trainer):
            if self.roster.is_duplicate(message.trainer):
                self._outbox.send_refused(message, Rejected("duplicate", DUPLICATE))
            return
        was_selected = self.roster.is_selected(message.trainer)
        introduction = Introduction(message.version, message.labels, fingerprint)
        self._join(message.trainer, message.num_examples, introduction=introduction)
        inbox = topics.inbox_of(message.trainer)
        if self.phase is Phase.FINISHED:
            self._send_finished(inbox)
            return
        if not self._check_selected(message, was_selected):
            return
        self._welcome(message.trainer)
        barred = self.roster.is_barred(message.trainer, self.round)
        if self.phase is not Phase.COLLECTING:
            self._published.newcomer()
        elif message.round < self.round and not barred:
            self._send_round(inbox)

    def _check_selected(self, message: Hello, was_selected: bool) -> bool:
        """Return whether the run selects a trainer by the labels in its Hello; refuse it if not."""
        try:
            self.roster.check_selected(message.trainer)
        except Rejected as rejected:
            if was_selected:
                self._publisher.report(events.TrainerBarred(trainer=message.trainer, how="unselected"))
            self._participants.exclude(message.trainer)
            self._outbox.send_refused(message, rejected)
            return False
        if not was_selected:
            self._publisher.report(events.TrainerReadmitted(trainer=message.trainer))
        return True

    def _result(self, message: Result, packet: Packet) -> None:
        name = message.trainer
        held = message.num_examples
        if name not in self.roster:
            self._join(name, held)
            self._welcome(name)
        else:
            trainer = self.roster[name]
            if self.config.task.holdout or self.config.task.schema is not None:
                held = trainer.num_examples  # a result is computed on a part of the rows
            if not trainer.gone:
                self._join(name, held)
        if name in self._accepted.get(message.round, ()):
            self._acknowledge_again(message)
            return
        self._tell(message, packet, held)

    def _tell(self, message: Result, packet: Packet, held: int) -> None:
        """Give a new result to the strategy, and save it; the trainer has `held` rows."""
        name = message.trainer
        staleness = self._staleness(message)
        self._check_size(message)
        update = as_update(message, packet.arrays, self.round, additive=self._strategy.additive)
        self._state = self._strategy.tell(self._state, update)
        answer_s = 0.0 if staleness else self._answered(name)
        if self.roster[name].gone and message.term == self.term and message.attempt == 1:
            self._join(name, held)  # the goodbye came from the process that this one replaces
        self._outbox.save(StoredResult(message.round, name, self.round, packet.frames))
        self._count(message, held, staleness, answer_s, saturated=count_saturated(packet.arrays))
        if staleness:  # the next round or beacon acknowledges the others
            self._outbox.send_accepted(message)

    def _answered(self, name: str) -> float:
        """Wait no more for a trainer that has answered the open round; return after how many seconds."""
        self._participants.answer(name)
        if self.phase is not Phase.COLLECTING:
            return 0.0
        answer_s = self._now - self._opened_at
        self._adaptive_deadline.add(answer_s)
        return answer_s

    def _count(self, message: Result, held: int, staleness: int, answer_s: float, *, saturated: int = 0) -> None:
        """Count and report a result that the strategy has received."""
        name = message.trainer
        trainer = self.roster[name]
        self._accepted.setdefault(message.round, set()).add(name)
        self._counted += 1
        if trainer.is_silent:
            self._publisher.report(events.TrainerReturned(trainer=name, missed=trainer.missed))
        self.roster.count(name, held, staleness=staleness, again=message.attempt > 1)
        trainer.metrics = message.metrics or trainer.metrics
        self._publisher.accepted(message, staleness, answer_s, self._now, saturated=saturated)

    def _sum_reply(self, message: SumReply, packet: Packet) -> None:
        raise Rejected("query", f"expected plain answers of {message.trainer}: the run has no secure sums")

    def _acknowledge_again(self, message: Result) -> None:
        """Acknowledge a stored result; report its first repetition, since a trainer may repeat it at any rate."""
        key = message.round, message.trainer
        self.roster[message.trainer].resent += 1
        if key not in self._resent:
            self._resent.add(key)
            self._publisher.report(events.ResultResent(round=message.round, trainer=message.trainer))
        self._outbox.send_accepted(message)

    def _staleness(self, message: Result) -> int:
        """Return how many rounds late a usable result is."""
        limits = self.config.limits
        self.roster.check_barred(message.trainer, message.round)
        staleness = self.round - message.round
        if self.phase is Phase.FINISHED:
            raise Rejected("round", "the run is over")
        if not 0 <= staleness <= limits.rounds_late or message.round < 1:
            first = max(1, self.round - limits.rounds_late)
            raise Rejected("round", f"expected a round from {first} to {self.round}, got {message.round}")
        invited = self._invitations.of(message.round)
        if invited is not None and message.trainer not in invited:
            raise Rejected("uninvited", f"round {message.round} asks other trainers")
        if message.model_digest != self._model_digest(message.round):
            raise Rejected("model-digest", f"computed on another model than round {message.round} published")
        most = limits.num_examples_max
        if most is not None and message.num_examples > most:
            raise Rejected("values", f"expected at most {most} rows, got {message.num_examples}")
        return staleness

    def _check_size(self, message: Result) -> None:
        size, largest = sum(info.nbytes for info in message.arrays), self._published.answer_bytes(message.round)
        if largest is not None and size > largest:
            raise Rejected("nbytes", f"expected an answer of at most {largest} bytes, got {size}")

    def _model_digest(self, number: int) -> bytes | None:
        """Return the digest of the arrays of this round; None if its close was dropped."""
        if number == self.round and number not in self._published.digests:  # a later life will open this round again
            return self._published.expect(number, self._strategy.ask(self._state))
        return self._published.digests.get(number)

    # --- rounds ---------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Open and close rounds as far as possible."""
        while True:
            self._open_if_ready()
            if self.phase is Phase.COLLECTING and self._lacks_answers:
                self._invite_others()
            if self.phase is not Phase.COLLECTING or (why := self._why_close()) is None:
                return
            self.phase = Phase.CLOSING
            self._close(why)

    def _open_if_ready(self) -> None:
        """Open the next round if enough trainers are present."""
        if self.phase is not Phase.WAITING or not self._broker_up or self.paused:
            return
        eligible = self.roster.eligible(self.round)
        needed = self._patience.needed(self._now, self.config.limits.min_trainers, self.config.task.trainers)
        if len(eligible) >= needed:
            self._open(eligible)
        else:
            self._publisher.waiting(len(eligible), needed, self.roster.declined(self.round))

    def _open(self, eligible: Sequence[str]) -> None:
        plan = self._strategy.ask(self._state)
        self._published.open(self.round, plan)
        if self.config.limits.sample is not None and plan.query.partial:
            self._sample(eligible, self.config.limits.sample)
        else:
            self._participants.add(eligible, self.roster.awaited(eligible))
        self._publish()

    def _publish(self) -> None:
        """Ask the participants the question of the open round."""
        self.phase = Phase.COLLECTING
        self._patience.opened()
        self.roster.forgive()
        self._opened_at = self._now
        self._adaptive_deadline.begin(self._published.plan.query.kind)
        self._deadline_s = self._adaptive_deadline.deadline_s
        self._deadline = self._now + self._deadline_s
        self._send_round(topics.ROUNDS + self.config.run)
        self._beacon_at = self._now + self.config.limits.beacon_s
        self._publisher.opened(self.round, len(self._participants.awaited), self._now)

    def _sample(self, eligible: Collection[str], sample: float) -> None:
        """Invite a sample to the open round, or those again that an earlier life has invited."""
        kept = self._invitations.of(self.round)
        if kept is None:
            awaited = self.roster.awaited(eligible)
            self._invite(eligible, awaited, sample_size(sample, len(awaited)))
        else:
            awaited = {name for name in kept if name not in self.roster or not self.roster[name].is_silent}
            self._participants.add(kept, awaited, returning=awaited.difference(eligible))

    def _invite(self, candidates: Collection[str], awaited: set[str], count: int) -> None:
        """Invite so many more trainers to the open round, and silent ones whose turn it is."""
        invited = self._invitations.of(self.round) or frozenset()
        drawn = self._invitations.draw(self.round, candidates, count, silent=set(candidates) - awaited)
        self._outbox.save(drawn)
        more = set(drawn.trainers) - invited
        self._participants.add(more, more & awaited)

    @property
    def _lacks_answers(self) -> bool:
        """Whether a sampled round will not get its quorum, or not before its deadline."""
        participants = self._participants
        if self._invitations.of(self.round) is None or participants.have_quorum(self.config.limits.quorum):
            return False
        late = self._deadline is None or self._now >= self._deadline
        return (late and self._adaptive_deadline.is_known) or not participants.are_expected(self.roster)

    def _invite_others(self) -> None:
        """Invite others in place of those that have not answered; their results count if they arrive after all."""
        invited = self._invitations.of(self.round) or frozenset()
        candidates = [name for name in self.roster.eligible(self.round) if name not in invited]
        if candidates:
            self._invite(candidates, self.roster.awaited(candidates), self._participants.give_up_missing())
            self._deadline = self._now + self._deadline_s
            self._send_round(topics.ROUNDS + self.config.run)

    def _why_close(self) -> events.Why | None:
        """Return why the open round closes now, or None."""
        limits, participants = self.config.limits, self._participants
        if limits.buffer is not None and self._published.plan.query.partial and self._counted >= limits.buffer:
            return "buffer"
        if not participants.have_quorum(limits.quorum):
            if self._deadline is not None and self._now >= self._deadline:
                self._deadline = None  # from now on the round closes with its quorum
            return None
        if not participants.are_expected(self.roster):
            return "complete"
        return "deadline" if self._deadline is None or self._now >= self._deadline else None

    def _close(self, why: events.Why, members: tuple[str, ...] | None = None) -> None:
        """Close the open round; without `members`, those of the roster count."""
        participants = self._participants
        missing = set[str]() if why == "buffer" else {name for name in participants.missing if name in self.roster}
        missed = set[str]() if why == "buffer" else participants.asked - participants.answered
        for name in self.roster.time_out(missing, self._now):
            self._publisher.left(name)
        for name in self.roster.miss(name for name in missed if name in self.roster):
            self._publisher.report(events.TrainerSilent(trainer=name, missed=self.roster[name].missed))
        members = tuple(self.roster.members(self._now, self.round)) if members is None else members
        self._state = self._strategy.close(self._state, members)
        evaluation, round_s, present = self.evaluation, self._now - self._opened_at, self.roster.present
        self._publisher.closed(
            self.round,
            why,
            results=self._counted,
            round_s=round_s,
            present=len(present),
            invited=len(participants.awaited),
            suspects=[name for name in missing.intersection(present) if not self.roster[name].is_silent],
            evaluation=evaluation,
            bytes_received=self.bytes_received,
            differences=self.differences,
            secure=self.config.secure,
            find=lambda: self.findings,
            now=self._now,
        )
        self._outbox.save(
            Close(
                round=self.round,
                why=why,
                members=members,
                results=self._counted,
                round_s=round_s,
                closed=self._wall,
                best=self.best,
                model_digest=self._published.digests[self.round],
            )
        )
        self.round += 1
        if self._checkpoint_next or (self.round - 1) % CHECKPOINT_ROUNDS == 0:
            self._save_checkpoint()
        self._participants = Participants()
        self._counted, self._deadline = 0, None
        known_since, oldest = self.round - RESENT_ROUNDS, self.round - self.config.limits.rounds_late - 1
        self._accepted = {number: names for number, names in self._accepted.items() if number >= known_since}
        self._resent = {key for key in self._resent if key[0] >= known_since}
        self._published.close(oldest)
        self._invitations.forget_before(oldest)
        self.phase = Phase.WAITING
        self._finish_if_over(evaluation, len(members))

    def _save_checkpoint(self) -> None:
        """Save the state at the beginning of `self.round`: a later life replays from there."""
        self._checkpoint_next = False
        self._outbox.save(Checkpoint(self.round, dump(self._state)))
        self._publisher.report(events.CheckpointKept(round=self.round - 1))
        if (keep := self.config.limits.keep_rounds) is not None:
            self._outbox.save(DropOldRounds(keep))

    def _finish_if_over(self, evaluation: Evaluation | None, members: int) -> None:
        self.failure = failure_of(self._strategy, self._state)
        if self.failure:
            self._finish(None, "failed")
            return
        why = end_of(
            self.config,
            evaluation,
            members=members,
            pending=evaluation is not None and bool(self.roster.pending(self._now, self.round)),
            learned=is_finished(self._strategy, self._state),
            rounds_left=self.round <= self.config.limits.rounds_max,
        )
        self.solved = why == "solved"
        if why is not None:
            self._finish(evaluation, why)

    def _when_deserted(self) -> float | None:
        """Return when the run ends because all its trainers have left or declined it, or None."""
        limits = self.config.limits
        if not self._broker_up or self.paused or len(self.roster) < limits.min_trainers:
            return None
        return self.roster.deserted_at(self.round, self._connected_at, limits.decline_s, limits.leave_s)

    def _end_if_deserted(self) -> None:
        """End the run if its trainers have left or declined it for good, or this life if it has waited long enough."""
        if self.phase is Phase.FINISHED or self.stopped:
            return
        present, needed = len(self.roster.eligible(self.round)), self.config.limits.min_trainers
        gives_up = self._patience.is_over(self._now, enough=self.paused or present >= needed)
        fails_at = self._fails_at = self._when_deserted()
        if not gives_up and (fails_at is None or self._now < fails_at):
            return
        departures = self.roster.departures(self.round)
        hopeless = all(one.reason in DECLINES for one in departures)  # another try would end the same way
        if fails_at is not None and (self._now >= fails_at or hopeless):
            self.failure = failure_text(departures)
            self._finish(self.evaluation, "failed")
        else:
            self.failure = shortage_text(present, needed, self._patience.wait_s or 0.0, departures)
            self.stopped = True
            self._outbox.commit()

    def _finish(self, evaluation: Evaluation | None, why: events.End) -> None:
        self.phase, self.why = Phase.FINISHED, why
        self._publisher.finished(evaluation, self.findings, self.round - 1, why, self.failure)
        self._send_finished(topics.ROUNDS + self.config.run)

    # --- outputs --------------------------------------------------------------------------------------------------

    def _join(
        self, name: str, num_examples: int, *, confirmed: bool = False, introduction: Introduction | None = None
    ) -> None:
        if self.roster.join(name, num_examples, self._now, confirmed=confirmed, introduction=introduction):
            self._publisher.joined(self.roster[name])
            if self.roster[name].is_silent:  # a connection is no answer
                self._publisher.report(events.TrainerSilent(trainer=name, missed=self.roster[name].missed))

    def _send_round(self, topic: str) -> None:
        """Publish the open round, with a delta if there is one; to an inbox, in full."""
        payload, delta = self._published.content(in_full=topic.startswith(topics.INBOX))
        self._outbox.send_round(
            topic,
            self.round,
            self._published.plan,
            payload,
            deadline_s=self._deadline_s,
            acknowledged=self._acknowledged(self.round - 1),
            invited=self._invited_bits(),
            staleness=0 if self.config.limits.buffer is None else self.config.limits.rounds_late,
            delta=delta,
            sum_number=self._sum_number,
        )

    @property
    def _sum_number(self) -> int | None:
        """The number of the secure sum that covers the answers; None: they are plain."""
        return None

    def _invited_bits(self) -> bytes | None:
        """Return the bitmap of the trainers that the open round invites; None: all."""
        invited = self._invitations.of(self.round)
        if invited is not None:
            return self.roster.bitmap(invited)
        if not self.config.limits.select:
            return None
        return self.roster.bitmap(one.name for one in self.roster.trainers if self.roster.is_selected(one.name))

    def _send_finished(self, topic: str) -> None:
        self._farewell_sent = self._farewell_sent or self._broker_up
        message = messages.Finished(**self._outbox.about, rounds=self.round - 1, solved=self.solved)
        self._outbox.send(topic, message)

    def _send_beacon(self, topic: str) -> None:
        """Send the newest round, the acknowledgements of its results, and the time (seconds since 1970)."""
        opened = self.phase is Phase.COLLECTING
        number = self.round if opened else self.round - 1
        message = messages.Beacon(
            **self._outbox.about,
            round=number,
            open=opened,
            paused=self.paused,
            waiting=not opened and not self.paused,
            spread_s=min(SPREAD_MAX_S, SPREAD_S * len(self.roster)),
            acknowledged=self._acknowledged(number),
            acked_request=self._acked_request,
            at=self._wall,
        )
        self._outbox.send(topic, message)

    def _welcome(self, name: str) -> None:
        message = messages.Welcome(**self._outbox.about, trainer=name, index=self.roster[name].index)
        self._outbox.send(topics.inbox_of(name), message)

    def _acknowledged(self, number: int) -> bytes:
        """Return the bitmap of the trainers whose result of round `number` is acknowledged by the next message."""
        return self.roster.bitmap(self._accepted.get(number, ()))

    def _reject(self, trainer: str, rejected: Rejected) -> None:
        if trainer in self.roster:
            self.roster[trainer].rejected += 1
        self._publisher.rejected(trainer, rejected)
