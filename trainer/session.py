"""A trainer's session: a state machine without I/O. Inputs and `now` in, outputs out.

For each run that it follows, a trainer is

    OFFERED   it has sent Hello (and repeats it at each beacon)
    WELCOMED  it is on the roster of the run's term
    DECLINED  it takes no part, and says why in Goodbye: its budget is used up, its rows do not fit, it may not run the
              code of the task, or its work failed. A new term of the run or new rows make it OFFERED again, unless
              the budget is used up

and its one worker is

    IDLE      -> WORKING  when a round newer than the last one is received
    WORKING   -> IDLE     when the work is done: the result is pending. It is sent, and sent again with back-off, until
                          it is accepted, refused, acknowledged by a bitmap, or the run is finished
              -> WORKING  when a newer round of that run is received: the old work is cancelled, or finished first
                          if the round says that its result is still of use
              -> IDLE     when the work fails or takes longer than `work_seconds_max`: the run is declined
    any       -> BLOCKED  when cancelled work does not end: all runs are declined
    BLOCKED   -> IDLE     when it ends: they are OFFERED again

A round that invites some of the trainers is no work for the others; they go on with what they do.

No message ends a trainer: only its operator does.

Messages of a lower term than the highest one seen come from an outdated aggregator and are ignored. A result is saved
before it is sent. Only the newest pending result of a run is sent, so at most one of each run is in flight.

In a run with secure sums (decision 37), a round names its sum. The result is pending as usual, but only its masked form
is sent, once the aggregator has opened the sum, and again when it repeats that. Keys for the next sum go with it.
Signatures and shares are sent at once. Shares for the cohort of the next sum are made after the signature, and leave
with those that the open sum reveals; at once if this trainer has signed nothing, or is asked again.

A trainer follows `RUNS_MAX` runs. Another run replaces the one with the oldest message, provided that one is silent;
until then it is ignored. The run that is worked on is never replaced, and a run with a pending result only after a
long silence; that result is dropped, and its round may be worked on again. Two kinds of runs are replaced at once:
declined ones, and those of which only a round kept by the broker is known.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple, assert_never, get_args

import numpy as np

from fedmq.algorithms.base import CONTROL, WORK_SECONDS_MAX
from fedmq.errors import (
    BadData,
    FedmqError,
    LimitExceeded,
    QueryRefused,
    Rejected,
    RejectReason,
    named,
)
from fedmq.protocol import topics
from fedmq.protocol.codec import Array, Packet, model_digest_of
from fedmq.protocol.fixed_point import FRACTION_BITS, quantize
from fedmq.protocol.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    Accepted,
    Beacon,
    Finished,
    FromAggregator,
    FromTrainer,
    Goodbye,
    Hello,
    Refused,
    Round,
    SumRequest,
    Welcome,
    has_bit,
)
from fedmq.runtime.clock import earliest
from fedmq.secure_sums.question import question_of
from fedmq.trainer.budget import Budget, Cost, cost_of
from fedmq.trainer.control_sums import OWN_CONTROL, ControlSum
from fedmq.trainer.decline import Decline, decline_of
from fedmq.trainer.followed_run import RESEND_S, SILENT_S, Delivery, FollowedRun
from fedmq.trainer.high_water_marks import HighWaterMarks
from fedmq.trainer.machine import (
    AggregatorReplaced,
    FromWorker,
    Input,
    KeysRead,
    LedgerFailed,
    Notice,
    Outgoing,
    Output,
    PendingResult,
    RowsRead,
    WorkDone,
    WorkerBlocked,
    WorkerUnblocked,
    WorkFailed,
)
from fedmq.trainer.publications import BaseMissing, chain_after
from fedmq.trainer.questions import Questions
from fedmq.trainer.secure_answers import SecureAnswers
from fedmq.trainer.sum_session import SumSession
from fedmq.transport.link import (
    BrokerConnected,
    BrokerDisconnected,
    MessageReceived,
    MessageRejected,
    StopRequested,
    Tick,
)

RUNS_MAX = 16  # followed at once
PENDING_MAX = 8  # results of one run
HELLO_AGAIN_S, WAITING_HELLO_AGAIN_S, REFUSED_HELLO_AGAIN_S = 0.5, 2.0, 60.0
DECLINED_AGAIN_S = 10.0  # between two Goodbyes to beacons of a run that is declined
RESEND_MAX_S = 8.0
STOP_S = 4.0  # to finish the work and to get its result acknowledged
NOTICE_AGAIN_S = 10.0  # between log lines of one kind that a peer can cause,
IGNORED_AGAIN_S = 3600.0  # and about an ignored run, for which nothing changes soon
OTHER_REASON = "other"  # counts refusals with a reason that this version does not know

_REASONS = frozenset(get_args(RejectReason))


class Assigned(NamedTuple):
    """A round that the worker has, or that waits for it."""

    packet: Packet
    run: str
    round: int
    model_digest: bytes
    cost: Cost
    question: bytes  # of a secure sum; b"": the answer is sent plainly


class Session(SumSession):
    """A trainer's state over all runs that it follows; `pending` are results that an earlier process left.

    Losses are sent in units of 2**-`fraction_bits`. `rejections` counts unacceptable messages by reason, `refusals` the
    trainer's own results that an aggregator refused. With `site_figures`, an aggregator may show how well a model does
    on these rows alone.
    """

    def __init__(
        self,
        name: str,
        num_examples: int,
        version: str,
        jitter: np.random.Generator,
        pending: Iterable[PendingResult] = (),
        *,
        fraction_bits: int = FRACTION_BITS,
        budget: Budget | None = None,
        questions: Questions | None = None,
        marks: HighWaterMarks | None = None,
        controls: Iterable[ControlSum] = (),
        labels: tuple[str, ...] = (),
        work_seconds_max: float = WORK_SECONDS_MAX,
        site_figures: bool = True,
        secure: SecureAnswers | None = None,
    ) -> None:
        super().__init__(secure or SecureAnswers())
        self.name, self.num_examples, self.version, self.fraction_bits = name, num_examples, version, fraction_bits
        self.labels, self.work_seconds_max, self.site_figures = labels, work_seconds_max, site_figures
        self.budget, self.marks = budget or Budget(), marks or HighWaterMarks()
        self.questions = questions or Questions()
        self._controls = {one.run: one for one in controls}  # the one with the oldest change first
        self.done = False
        self.runs = OrderedDict[str, FollowedRun]()  # the one with the oldest message first
        self._work: Assigned | None = None  # what the worker does,
        self._work_by = math.inf  # until this time at most
        self._blocked: Decline | None = None  # why every run is declined: the worker is blocked
        self.rejections: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self._next: OrderedDict[str, Assigned] = OrderedDict()  # the newest round of each run, waiting for the worker
        self._jitter = jitter
        self._connected = False
        self._stop_by = None
        self._output = Output()
        for one in sorted(pending, key=lambda one: (one.run, one.term, one.round)):
            followed = self.runs.setdefault(one.run, self._new_run(one.run))
            followed.term = max(followed.term, one.term)
            followed.round_term, followed.round = max((followed.round_term, followed.round), (one.term, one.round))
            followed.pending[one.round], followed.live = Delivery(one), True

    @property
    def wake_at(self) -> float | None:
        """Time at which the next `Tick` is due, or None."""
        work_by = None if self._work is None else self._work_by
        if not self._connected:
            return earliest(self._stop_by, work_by)
        newest = (followed.pending[max(followed.pending)] for followed in self.runs.values() if followed.pending)
        sends = (delivery.send_at for delivery in newest if not delivery.is_masked)
        return earliest(self._stop_by, work_by, 0.0 if self._cohorts else None, *sends)

    @property
    def working(self) -> tuple[str, int] | None:
        """Run and round of the worker's work, or None."""
        return None if self._work is None else (self._work.run, self._work.round)

    @property
    def status(self) -> str:
        """Describe the state for people, in one line."""
        if self._blocked is not None:
            return self._blocked.detail
        if self.working is not None:
            return f"round {self.working[1]} of run {self.working[0]}, working"
        if not self.runs:
            return "no run is published"
        run, followed = next(reversed(self.runs.items()))
        if not followed.round:
            return f"run {run}, waiting for a round"
        state = "its result is not acknowledged yet" if followed.pending else "done"
        return f"round {followed.round} of run {run}, {state}"

    def step(self, event: Input, now: float) -> Output:
        """Process one input; return what to do."""
        self._output = Output()
        cohorts, self._cohorts = self._cohorts, {}  # those of this input wait, so that what it asks for leaves first
        self._apply(event, now)
        if not self.done:
            self._deal(cohorts)
            self._check_work_time(now)
            self._resend(now)
            self._start_or_end(now)
        return self._output

    def _apply(self, event: Input, now: float) -> None:
        match event:
            case MessageReceived():
                self._on_message(event.packet, now)
            case MessageRejected():
                self._reject(event.rejected)
            case BrokerConnected() | BrokerDisconnected():
                self._on_connection(event, now)
            case WorkDone() | WorkFailed() | WorkerBlocked() | WorkerUnblocked():
                self._on_worker(event, now)
            case RowsRead() | AggregatorReplaced() | KeysRead() | LedgerFailed():
                self._on_site(event, now)
            case StopRequested():
                self._on_stop(now)
            case Tick():
                pass
            case _:
                assert_never(event)

    def _on_site(self, event: RowsRead | AggregatorReplaced | KeysRead | LedgerFailed, now: float) -> None:
        match event:
            case RowsRead():
                self._on_rows_read(event, now)
            case AggregatorReplaced():
                self._on_aggregator_replaced(now)
            case KeysRead():
                self.secure.use(event.member)
            case LedgerFailed():
                self._on_ledger_failed(event)

    # --- messages -----------------------------------------------------------------------------------------------

    def _on_message(self, packet: Packet, now: float) -> None:
        message = packet.message
        if not isinstance(message, FromAggregator):
            return
        followed = self._follow(message, now)
        if followed is None:
            return
        kept_by_broker = isinstance(message, Round) and packet.topic == topics.inbox_of(self.name)
        followed.live = followed.live or not kept_by_broker
        match message:
            case Round():
                self._on_round(packet, message, followed, now)
            case SumRequest():
                self._on_sum_request(packet, message, followed)
            case Beacon():
                self._on_beacon(message, followed, now)
            case Finished():
                self._on_finished(message, followed)
            case Welcome() | Accepted() | Refused():
                if message.trainer == self.name:
                    self._on_reply(message, followed, now)
            case _:
                assert_never(message)

    def _on_reply(self, message: Welcome | Accepted | Refused, followed: FollowedRun, now: float) -> None:
        match message:
            case Welcome():
                followed.index = message.index
                self._output.notices.append(Notice(f"takes part in run {message.run}", message.run))
            case Accepted():
                self._acknowledged(message.run, followed, message.round)
            case Refused():
                self._on_refused(message, followed, now)

    def _new_run(self, run: str) -> FollowedRun:
        """Return the state of a run that is not followed, from its high-water mark."""
        mark = self.marks.of(run)
        return FollowedRun(mark.term, mark.round, mark.term)

    def _follow(self, message: FromAggregator, now: float) -> FollowedRun | None:
        """Return the state of the message's run, raised to its term, or None to ignore the message.

        It ignores messages of a lower term, and reports a run of which nothing else arrives. Of an unfollowed run it
        reads only an offer of work, and only if a followed run can be replaced.
        """
        run, term = message.run, message.term
        followed = self.runs.get(run) or self._new_run(run)
        if term < followed.term:
            if isinstance(message, Beacon) and now - followed.last_message_at >= SILENT_S:
                text = (
                    f"run {run} is ignored: its term {term} is lower than {followed.term}, the highest one received: "
                    "compare the clock of the aggregator's machine, or give the run another name"
                )
                self._output.notices.append(Notice(text, run, warning=True, kind=run, again_s=IGNORED_AGAIN_S))
            return None
        if run not in self.runs and not isinstance(message, Round | Beacon):
            return None
        if run not in self.runs and not self._make_room(now):
            text = f"run {run} is ignored: {RUNS_MAX} runs are followed, the limit, until one ends or falls silent"
            self._output.notices.append(Notice(text, run, warning=True, kind=run, again_s=IGNORED_AGAIN_S))
            return None
        self.runs[run], followed.last_message_at = followed, now
        self.runs.move_to_end(run)
        if term > followed.term:
            self._output.marks += self.marks.reached(run, term)
            pause_s = self._pause_s(followed)
            followed.term, followed.index, followed.hello_at, followed.asked = term, None, now + pause_s, None
            self._next.pop(run, None)  # a round of the earlier term; the one of this term is sent, or requested
            if followed.declined is not None and not followed.declined.is_final:
                followed.declined = None
            for delivery in followed.pending.values():
                delivery.send_at, delivery.backoff_s = now + pause_s, RESEND_S
        return followed

    def _make_room(self, now: float) -> bool:
        """Return whether one more run can be followed; may drop silent ones."""
        while len(self.runs) >= RUNS_MAX:
            silent = [
                (followed.live, bool(followed.pending), followed.last_message_at, run)
                for run, followed in self.runs.items()
                if now - followed.last_message_at >= followed.patience_s
                and (self._work is None or self._work.run != run)
            ]
            if not silent:
                return False
            run = min(silent)[-1]
            self._next.pop(run, None)
            self.secure.forget(run)
            self._output.drops += [(run, number) for number in self.runs.pop(run).pending]
        return True

    def _on_round(self, packet: Packet, message: Round, followed: FollowedRun, now: float) -> None:
        self._check_bit(message.run, followed, message.round - 1, message.acknowledged)
        if message.invited is not None and followed.index is None and followed.declined is None:
            self._hello(message.run, followed, now)  # the answer has the index, and the round again
            return
        question = _question_of(message)
        self._release_outdated(message, followed, question)
        new = self._is_new(message, followed)
        uninvited = message.invited is not None and not has_bit(message.invited, followed.index)
        followed.chain = None if followed.declined else chain_after(followed.chain, packet)
        # Of a pending result, only the round in full says how long its masked form is.
        needed = new or (message.sum is not None and followed.chain is None)
        if needed and not uninvited and followed.declined is None and not followed.can_compute(message):
            self._ask_in_full(message.run, followed, message.round, now)
            return
        if new or message.term != followed.round_term or message.round > followed.round:
            followed.round, followed.round_term, followed.uninvited = message.round, message.term, uninvited
            followed.sum, followed.asked = 0, None
        if followed.declined is not None:
            self._decline(message.run, followed, followed.declined)  # again: the first Goodbye may have been lost
        elif new and self._blocked is not None:
            self._decline(message.run, followed, self._blocked)
        elif new and not uninvited:
            self._assign(packet, message, followed, question)
        if message.sum is not None and message.round == followed.round and message.sum >= followed.sum:
            self._join_sum(message, followed, message.sum, uninvited=uninvited)
        if followed.index is None and followed.declined is None:
            self._hello(message.run, followed, now)

    def _release_outdated(self, message: Round, followed: FollowedRun, question: bytes) -> None:
        """Drop the pending result of this round if it is of another model or question, and masked ones of earlier ones.

        The first is of a term that was restarted at an earlier round. The sums of the others are over without them.
        """
        work = model_digest_of(message), question
        for number, one in list(followed.pending.items()):
            other = number == message.round and (one.result.model_digest, one.result.question) != work
            if other or (one.is_masked and number < message.round):
                self._release(message.run, followed, number)

    def _is_new(self, message: Round, followed: FollowedRun) -> bool:
        """Return whether a round is work that has not begun, and whose result is not there.

        The same round of a later term is the same work, and the same round in a later sum. Any other one of a later
        term, even a lower one, is new.
        """
        in_work = self._work is not None and self._work[1:4] == (message.run, message.round, model_digest_of(message))
        unknown = message.round not in followed.pending and not in_work
        if message.term != followed.round_term:
            return unknown
        if message.sum is not None and message.round in followed.pending:
            return False
        again = followed.uninvited if message.sum is None else unknown and message.sum > followed.sum
        return message.round > followed.round or (message.round == followed.round and again)

    def _assign(self, packet: Packet, message: Round, followed: FollowedRun, question: bytes) -> None:
        """Make a new round the next work of its run, or decline the run."""
        shapes = before = None
        if message.delta is not None and followed.chain is not None:
            shapes, before = followed.chain.shapes, followed.chain.packets[:-1]
        cost = cost_of(message, self.fraction_bits, shapes)
        if refusal := self._refusal(message):
            self._refuse(message.run, followed, Decline("policy", refusal))
        elif self.budget.allows(message.run, cost.evaluations):
            if not self._finishes_first(message):
                self._cancel(message.run)
            packet = packet._replace(before=before or ())
            digest = model_digest_of(message)
            self._next[message.run] = Assigned(packet, message.run, message.round, digest, cost, question)
        else:
            self._output.spends += self.budget.close(message.run)
            self._decline(message.run, followed, self._used_up())
            text = f"run {message.run}: another round would go beyond --max-evaluations {self.budget.cap}"
            self._output.notices.append(Notice(f"{text}: takes no further part in it", message.run, warning=True))

    def _refusal(self, message: Round) -> str | None:
        """Return why the site does not permit the answer to a round, or None."""
        check = self.secure.plain_refusal if message.sum is None else self.secure.refusal
        if refusal := check(message.run):
            return refusal
        return self.questions.refusal(message.run, self._in_work(message.run))

    def _refuse(self, run: str, followed: FollowedRun, decline: Decline) -> None:
        """Decline a run, with a line for the operator of this site, too."""
        self._decline(run, followed, decline)
        text = f"takes no part in run {run}: {decline.detail}"
        self._output.notices.append(Notice(text, run, warning=True))

    def _finishes_first(self, message: Round) -> bool:
        """Return whether the worker's work on an older round of this run is still of use."""
        work = self._work
        return work is not None and work.run == message.run and 0 < message.round - work.round <= message.staleness

    def _on_beacon(self, message: Beacon, followed: FollowedRun, now: float) -> None:
        followed.spread_s = message.spread_s
        self._check_bit(message.run, followed, message.round, message.acknowledged)
        newest = followed.round if followed.round_term == followed.term else 0
        if followed.index is None or (message.open and message.round > newest):
            self._hello(message.run, followed, now)
        elif message.waiting:
            self._hello(message.run, followed, now, again_s=WAITING_HELLO_AGAIN_S)

    def _on_finished(self, message: Finished, followed: FollowedRun) -> None:
        self._cancel(message.run)
        self._output.notices.append(
            Notice(f"run {message.run} is finished after {message.rounds} rounds", message.run, message.rounds)
        )
        followed.last_message_at, followed.chain, followed.asked = -math.inf, None, None
        self.secure.forget(message.run)
        for number in list(followed.pending):
            self._release(message.run, followed, number)
        self._forget_control(message.run)

    def _on_refused(self, message: Refused, followed: FollowedRun, now: float) -> None:
        reason = message.reason if message.reason in _REASONS else OTHER_REASON
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        pending = followed.pending.get(message.round)
        if message.round and message.reason == "round" and pending is not None and pending.is_masked:
            return  # it is late for its sum; the round may be asked again in another one
        if message.round:
            self._release(message.run, followed, message.round)
            what = f"the result of round {message.round}"
        else:
            # A second trainer of this name may end at any time; other reasons stay.
            again_s = WAITING_HELLO_AGAIN_S if reason == "duplicate" else REFUSED_HELLO_AGAIN_S
            followed.hello_at = now + again_s
            if reason == "uninvited":
                text = f"takes no part in run {message.run}: {message.detail}"
                self._output.notices.append(
                    Notice(text, message.run, warning=True, kind=f"{message.run} uninvited", again_s=IGNORED_AGAIN_S)
                )
                return
            what = f"this trainer's request to take part in run {message.run}"
        text = f"{what} was refused: {message.reason}: {message.detail}"
        self._limited(f"refused {reason}", text, message.run, message.round)

    def _check_bit(self, run: str, followed: FollowedRun, number: int, bitmap: bytes) -> None:
        """Drop the result of round `number` if this trainer's bit says that it is committed."""
        if has_bit(bitmap, followed.index):
            self._acknowledged(run, followed, number)

    def _acknowledged(self, run: str, followed: FollowedRun, number: int) -> None:
        if number in followed.pending:
            self._output.notices.append(Notice(f"the result of round {number} of run {run} is accepted", run, number))
            self._add_control(run, followed.pending[number].result)
        self._release(run, followed, number)

    def _release(self, run: str, followed: FollowedRun, number: int) -> None:
        """Drop a pending result for good: its round is never worked on again."""
        if (delivery := followed.pending.pop(number, None)) is not None:
            self._output.marks += self.marks.reached(run, delivery.result.term, number)
            self._output.drops.append((run, number))

    def _add_control(self, run: str, result: PendingResult) -> None:
        """Add what an acknowledged result has of a control variate to this trainer's sum."""
        if CONTROL not in result.arrays:
            return
        control = self._controls.pop(run, ControlSum(run))
        self._controls[run] = control.plus(result.round, result.model_digest, result.arrays[CONTROL])
        self._output.controls.append(self._controls[run])
        while len(self._controls) > RUNS_MAX:
            self._forget_control(next(iter(self._controls)))

    def _forget_control(self, run: str) -> None:
        if self._controls.pop(run, None) is not None:
            self._output.controls.append(ControlSum(run))

    def _with_control(self, work: Assigned) -> Packet:
        """Return the packet of a round for the worker, with this trainer's control variate if the round has one."""
        arrays = {name: array for name, array in work.packet.arrays.items() if name != OWN_CONTROL}
        if CONTROL in arrays:
            pending = [
                (number, delivery.result.arrays[CONTROL])
                for number, delivery in self.runs[work.run].pending.items()
                if CONTROL in delivery.result.arrays and number != work.round
            ]
            if (control := self._controls.get(work.run, ControlSum(work.run))).is_of_earlier_run(
                work.round, work.model_digest
            ):
                self._forget_control(work.run)
                control = ControlSum(work.run)
            if (own := control.with_pending(pending, arrays[CONTROL].shape)) is not None:
                arrays[OWN_CONTROL] = own
        return work.packet._replace(arrays=arrays)

    def _pause_s(self, followed: FollowedRun) -> float:
        """Return a random delay for what many trainers do at one moment; 0 if they are few."""
        return followed.spread_s * float(self._jitter.random()) if followed.spread_s > HELLO_AGAIN_S else 0.0

    def _on_connection(self, event: BrokerConnected | BrokerDisconnected, now: float) -> None:
        self._connected = isinstance(event, BrokerConnected)
        if not self._connected:
            return
        self._drop_refused()
        for followed in self.runs.values():
            if followed.last_message_at > -math.inf or followed.pending:
                followed.last_message_at = now  # the time without a broker does not count as silence
            for delivery in followed.pending.values():
                delivery.send_at = now + max(self._pause_s(followed), 0.2 * float(self._jitter.random()))

    def _drop_refused(self) -> None:
        """Drop plain results of an earlier start that this one does not send."""
        for run, followed in self.runs.items():
            plain = [number for number, one in followed.pending.items() if not one.is_masked]
            if plain and (refusal := self.secure.plain_refusal(run)):
                for number in plain:
                    self._release(run, followed, number)
                text = f"drops {len(plain)} results of run {run} that were not sent: {refusal}"
                self._output.notices.append(Notice(text, run, warning=True))

    def _reject(self, rejected: Rejected) -> None:
        self.rejections[rejected.reason] = self.rejections.get(rejected.reason, 0) + 1
        self._limited(rejected.reason, f"a message was rejected: {rejected}")

    # --- work ---------------------------------------------------------------------------------------------------

    def _on_worker(self, event: FromWorker, now: float) -> None:
        match event:
            case WorkDone():
                self._on_work_done(event, now)
            case WorkFailed():
                self._on_work_failed(event, now)
            case WorkerBlocked():
                self._on_worker_blocked(event)
            case WorkerUnblocked():
                self._on_worker_unblocked(now)
            case _:
                assert_never(event)

    def _on_work_done(self, event: WorkDone, now: float) -> None:
        work = self._work
        if work is None or (work.run, work.round) != (event.run, event.round):
            return  # it was cancelled
        self._work, self.num_examples = None, event.num_examples if event.held is None else event.held
        text = f"round {event.round} of run {event.run} took {event.train_s:.3f} s"
        self._output.notices.append(Notice(text, event.run, event.round))
        followed = self.runs[event.run]
        fraction_bits = work.cost.fraction_bits
        fields = event._asdict()
        del fields["held"]
        fields["arrays"] = quantize(event.arrays, fraction_bits)
        result = PendingResult(
            **fields,
            term=followed.round_term,
            model_digest=work.model_digest,
            fraction_bits=fraction_bits,
            site_figures=self.site_figures,
            question=work.question,
        )
        followed.chain = followed.chain and followed.chain.known_to_worker(work.model_digest)
        followed.pending[event.round] = Delivery(result, send_at=now)
        self._output.keeps.append(result)
        self._output.spends += self.budget.spend(event.run, work.cost.evaluations)
        self._output.answered = self.questions.count(event.run)
        while len(followed.pending) > PENDING_MAX:
            self._release(event.run, followed, min(followed.pending))
        self._send_masked(event.run, followed)

    def _on_work_failed(self, event: WorkFailed, now: float) -> None:
        if self.working != (event.run, event.round):
            return  # it was cancelled
        if not isinstance(event.error, BaseMissing):
            self._work_failed(event.error)
            return
        self._work, followed = None, self.runs[event.run]
        followed.chain = None
        text = f"asks for round {event.round} of run {event.run} in full: {event.error}"
        self._limited("delta", text, event.run, event.round)
        self._ask_in_full(event.run, followed, event.round, now)

    def _ask_in_full(self, run: str, followed: FollowedRun, number: int, now: float) -> None:
        """Ask for a round with all of its arrays, as if it had not been received."""
        followed.round = min(followed.round, number - 1)
        self._hello(run, followed, now)

    def _work_failed(self, error: BaseException) -> None:
        """Decline the run of the work, whatever the error: another run may do better."""
        work, self._work = self._work, None
        assert work is not None
        if isinstance(error, Rejected):
            self.rejections[error.reason] = self.rejections.get(error.reason, 0) + 1
        decline = decline_of(error)
        if decline.reason == "code" and self.budget.cap is not None:
            decline = decline._replace(detail="")  # it could tell more of the rows than the limited scores
        self._decline(work.run, self.runs[work.run], decline)
        text = str(error) if isinstance(error, FedmqError) else f"its work failed: {named(error)}"
        text = error.detail if isinstance(error, LimitExceeded) else text
        self._limited(text, f"takes no part in run {work.run}: {text}", work.run, work.round)

    def _check_work_time(self, now: float) -> None:
        """Cancel work that takes too long; the run is declined."""
        if self._work is not None and now >= self._work_by:
            self._output.cancel = True
            self._work_failed(
                LimitExceeded(f"round {self._work.round} took longer than --work-seconds-max {self.work_seconds_max:g}")
            )

    def _on_rows_read(self, event: RowsRead, now: float) -> None:
        """Offer the new rows to all runs, those that were declined too."""
        if isinstance(event.outcome, BadData):
            self._output.notices.append(Notice(f"rows are not read again: {event.outcome}", warning=True))
            return
        self.num_examples = event.outcome
        self._output.notices.append(Notice(f"rows read again: {self.num_examples} rows", warning=True))
        for run, followed in self.runs.items():
            self._offer_again(run, followed, now)

    def _offer_again(self, run: str, followed: FollowedRun, now: float) -> None:
        """Send a new Hello to a run; if it was declined, take part in its open round after all."""
        if followed.declined is not None and not followed.declined.is_final:
            mark = self.marks.of(run)
            followed.declined, followed.round_term, followed.round = None, mark.term, mark.round
        followed.index, followed.hello_at = None, now

    def _on_worker_blocked(self, event: WorkerBlocked) -> None:
        """Decline all runs: a thread cannot be killed, and no other work can begin."""
        problem = f"the work of round {event.round} of run {event.run} was cancelled and does not end"
        self._blocked = Decline("limit", f"{problem}: restart this trainer")
        self._output.notices.append(Notice(f"{problem}: no other can begin: restart this trainer", warning=True))
        for run, followed in self.runs.items():
            if followed.declined is None and followed.last_message_at > -math.inf:
                self._decline(run, followed, self._blocked)

    def _on_worker_unblocked(self, now: float) -> None:
        blocked, self._blocked = self._blocked, None
        self._output.notices.append(Notice("the work that did not end has ended", warning=True))
        for run, followed in self.runs.items():
            if followed.declined is blocked:
                self._offer_again(run, followed, now)

    def _on_aggregator_replaced(self, now: float) -> None:
        """Forget the terms of the earlier key: it decides nothing any more. Pending results stay."""
        self.marks = HighWaterMarks()
        self.secure.reset()
        for run, followed in self.runs.items():
            self._cancel(run)
            followed.term = followed.round_term = 0
            followed.asked = None
            followed.index, followed.hello_at = None, now
            for delivery in followed.pending.values():
                delivery.result = delivery.result._replace(term=0)

    def _resend(self, now: float) -> None:
        if not self._connected:
            return
        for run, followed in self.runs.items():
            number = max(followed.pending, default=0)  # the newest, which the aggregator needs most
            if number and now >= followed.pending[number].send_at and not followed.pending[number].is_masked:
                delivery = followed.pending[number]
                delivery.attempt += 1
                delivery.send_at = now + delivery.backoff_s * (0.5 + float(self._jitter.random()))
                delivery.backoff_s = min(2 * delivery.backoff_s, RESEND_MAX_S)
                result = delivery.result.result(self.name, followed.term, delivery.attempt)
                self._send(run, result, delivery.result.arrays)

    def _start_or_end(self, now: float) -> None:
        """Start the next work, or end when the trainer is asked to and has nothing left to wait for."""
        if self._stop_by is not None:
            waits = self._work is not None or any(followed.pending for followed in self.runs.values())
            if now >= self._stop_by or not waits or not self._connected:
                self._end()
            return
        if self._work is None and self._next:
            _, self._work = self._next.popitem(last=False)
            self._work_by = now + self.work_seconds_max
            self._output.start = self._with_control(self._work)

    def _on_stop(self, now: float) -> None:
        """Give the work and its acknowledgement a moment; on a second request, none."""
        self._stop_by = now if self._stop_by is not None else now + STOP_S
        self._next.clear()

    def _end(self) -> None:
        self._output.cancel, self._work = self._output.cancel or self._work is not None, None
        for run, followed in self.runs.items():
            self._goodbye(run, followed, followed.declined or Decline("leaving"))
        self.done = True

    def _decline(self, run: str, followed: FollowedRun, decline: Decline) -> None:
        self._cancel(run)
        followed.declined = decline
        self._goodbye(run, followed, decline)

    def _in_work(self, run: str) -> int:
        """Return how many rounds of other runs will be answered before the next one of this run."""
        return len(self._next.keys() - {run}) + (self._work is not None and self._work.run != run)

    def _used_up(self) -> Decline:
        return Decline("evaluations", f"--max-evaluations {self.budget.cap} are used up")

    def _cancel(self, run: str) -> None:
        """Give up all work on a run."""
        self._next.pop(run, None)
        if self._work is not None and self._work.run == run:
            self._output.cancel, self._work = True, None

    # --- outputs ------------------------------------------------------------------------------------------------

    def _send(self, run: str, message: FromTrainer, arrays: dict[str, Array] | None = None) -> None:
        self._output.sends.append(Outgoing(topics.UP + run, message, arrays))

    def _hello(self, run: str, followed: FollowedRun, now: float, again_s: float = HELLO_AGAIN_S) -> None:
        if now < followed.hello_at or self._stop_by is not None:
            return
        if followed.declined is None:
            followed.declined = self._blocked if self.budget.allows(run, 1) else self._used_up()
        if followed.declined is not None:
            followed.hello_at = now + DECLINED_AGAIN_S
            self._goodbye(run, followed, followed.declined)
            return
        followed.hello_at = now + again_s
        hello = Hello(
            run=run,
            term=followed.term,
            trainer=self.name,
            num_examples=self.num_examples,
            round=followed.round if followed.round_term == followed.term else 0,
            version=self.version,
            labels=self.labels,
            versions=(PROTOCOL_VERSION_MIN, PROTOCOL_VERSION),
        )
        self._send(run, hello)

    def _goodbye(self, run: str, followed: FollowedRun, decline: Decline) -> None:
        if not self.done:
            self._send(run, Goodbye(run=run, term=followed.term, trainer=self.name, **decline._asdict()))

    def _limited(self, kind: str, text: str, run: str | None = None, round: int | None = None) -> None:
        """Add a warning that a peer can cause at any rate."""
        self._output.notices.append(Notice(text, run, round, warning=True, kind=kind, again_s=NOTICE_AGAIN_S))


def _question_of(message: Round) -> bytes:
    """Return the question of a round with a secure sum; b"" for a plain one, or a query that the worker refuses."""
    if message.sum is None:
        return b""
    try:
        return question_of(message)
    except QueryRefused:
        return b""
