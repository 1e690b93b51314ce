"""A trainer's session: a state machine without I/O. Inputs and `now` in, outputs out.

For each run that it follows, a trainer is

    OFFERED   it has sent Hello (and repeats it at each beacon)
    WELCOMED  it is on the roster of the run's term
    DECLINED  it takes no part: its budget is used up, or it may not run the code of the task

and its one worker is

    IDLE      -> WORKING  when a round newer than the last one is received
    WORKING   -> IDLE     when the work is done: the result is pending. It is sent, and sent again with back-off, until
                          it is accepted, refused, acknowledged by a bitmap, or the run is finished
              -> WORKING  when a newer round of that run is received: the old work is cancelled

Messages of a lower term than the highest one seen come from an outdated aggregator and are ignored. A result is saved
before it is sent. Only the newest pending result of a run is sent, so at most one of each run is in flight.

A trainer follows `RUNS_MAX` runs. Another run replaces the one with the oldest message, provided that one is silent;
until then it is ignored. The run that is worked on is never replaced, and a run with a pending result only after a
long silence; that result is dropped, and its round may be worked on again. Two kinds of runs are replaced at once:
declined ones, and those of which only a round kept by the broker is known.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never, get_args

import numpy as np

from fedmq.errors import BadData, CodeRefused, QueryRefused, Rejected, RejectReason
from fedmq.protocol import topics
from fedmq.protocol.codec import Array, Packet, digest_of
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
    Welcome,
)
from fedmq.runtime.clock import earliest
from fedmq.trainer.budget import Budget, Cost, cost_of
from fedmq.trainer.high_water_marks import HighWaterMarks
from fedmq.trainer.machine import Input, Notice, Outgoing, Output, PendingResult, WorkDone, WorkFailed
from fedmq.transport.link import (
    BrokerConnected,
    BrokerDisconnected,
    MessageReceived,
    MessageRejected,
    StopRequested,
    Tick,
)

RUNS_MAX = 16  # followed at once
SILENT_S = 5.0  # without a message, then a run may be replaced; an aggregator sends four beacons a second
PENDING_SILENT_S = 60.0  # the same for a run with a pending result: enough to restart an aggregator
PENDING_MAX = 8  # results of one run
HELLO_AGAIN_S, WAITING_HELLO_AGAIN_S, REFUSED_HELLO_AGAIN_S = 0.5, 2.0, 60.0
RESEND_S, RESEND_MAX_S = 0.5, 8.0
STOP_S = 4.0  # to finish the work and to get its result acknowledged
NOTICE_AGAIN_S = 10.0  # between log lines of one kind that a peer can cause,
IGNORED_AGAIN_S = 3600.0  # and about an ignored run, for which nothing changes soon
OTHER_REASON = "other"  # counts refusals with a reason that this version does not know

_REASONS = frozenset(get_args(RejectReason))


@dataclass
class Delivery:
    """A pending result and its retransmission state."""

    result: PendingResult
    attempt: int = 0
    send_at: float = 0.0
    backoff_s: float = RESEND_S


@dataclass
class FollowedRun:
    """What a trainer knows of one run."""

    term: int
    round: int = 0  # the newest received,
    round_term: int = 0  # and the term that published it
    index: int | None = None  # on the roster; None: OFFERED
    hello_at: float = 0.0  # earliest time of the next Hello
    spread_s: float = 0.0  # over which returning trainers spread their messages
    last_message_at: float = -math.inf  # or the last reconnection; -inf: the run is finished
    live: bool = False  # its aggregator has sent something, not only the broker a round that it has kept
    declined: bool = False
    pending: dict[int, Delivery] = field(default_factory=dict)  # by round

    @property
    def patience_s(self) -> float:
        """Silence after which another run may replace this one."""
        if not self.live or (self.declined and not self.pending):
            return 0.0
        return PENDING_SILENT_S if self.pending else SILENT_S


class Session:
    """A trainer's state over all runs that it follows; `pending` are results that an earlier process left.

    Losses are sent in units of 2**-`fraction_bits`. `rejections` counts unacceptable messages by reason, `refusals` the
    trainer's own results that an aggregator refused.
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
        marks: HighWaterMarks | None = None,
        labels: tuple[str, ...] = (),
    ) -> None:
        self.name, self.num_examples, self.version, self.fraction_bits = name, num_examples, version, fraction_bits
        self.labels = labels
        self.budget, self.marks = budget or Budget(), marks or HighWaterMarks()
        self.done = False
        self.runs: OrderedDict[str, FollowedRun] = OrderedDict()  # the one with the oldest message first
        self.working: tuple[str, int] | None = None  # run and round,
        self._model_digest, self._cost = b"", Cost(0, fraction_bits)  # its model's digest and its cost
        self.rejections: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self._next: OrderedDict[str, Packet] = OrderedDict()  # the newest round of each run that waits for the worker
        self._fits: set[str] = set()  # runs whose task the rows fit,
        self._unfit: dict[str, BadData] = {}  # and others, not known to be live
        self._jitter = jitter
        self._connected = False
        self._stop_by: float | None = None
        self._output = Output()
        for one in sorted(pending, key=lambda one: (one.run, one.term, one.round)):
            followed = self.runs.setdefault(one.run, self._new_run(one.run))
            followed.term = max(followed.term, one.term)
            followed.round_term, followed.round = max((followed.round_term, followed.round), (one.term, one.round))
            followed.pending[one.round], followed.live = Delivery(one), True

    @property
    def wake_at(self) -> float | None:
        """Time at which the next `Tick` is due, or None."""
        if not self._connected:
            return self._stop_by
        newest = (followed.pending[max(followed.pending)] for followed in self.runs.values() if followed.pending)
        return earliest(self._stop_by, *(delivery.send_at for delivery in newest))

    @property
    def status(self) -> str:
        """Describe the state for people, in one line."""
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
        match event:
            case MessageReceived():
                self._on_message(event.packet, now)
            case MessageRejected():
                self._reject(event.rejected)
            case BrokerConnected():
                self._on_connected(now)
            case BrokerDisconnected():
                self._connected = False
            case WorkDone():
                self._on_work_done(event, now)
            case WorkFailed():
                self._on_work_failed(event, now)
            case StopRequested():
                self._stop_by = now if self._stop_by is not None else now + STOP_S
                self._next.clear()
            case Tick():
                pass
            case _:
                assert_never(event)
        self._check_unfit(now)
        if not self.done:
            self._resend(now)
            self._start_or_end(now)
        return self._output

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
        if isinstance(message, Welcome | Accepted | Refused) and message.trainer != self.name:
            return
        match message:
            case Round():
                self._on_round(packet, message, followed, now)
            case Beacon():
                self._on_beacon(message, followed, now)
            case Finished():
                self._on_finished(message, followed)
            case Welcome():
                followed.index = message.index
                self._output.notices.append(Notice(f"takes part in run {message.run}", message.run))
            case Accepted():
                self._acknowledged(message.run, followed, message.round)
            case Refused():
                self._on_refused(message, followed, now)
            case _:
                assert_never(message)

    def _new_run(self, run: str) -> FollowedRun:
        """Return the state of a run that is not followed, from its high-water mark."""
        mark = self.marks.of(run)
        return FollowedRun(mark.term, mark.round, mark.term)

    def _follow(self, message: FromAggregator, now: float) -> FollowedRun | None:
        """Return the state of the message's run, raised to its term, or None to ignore the message.

        It ignores messages of a lower term. Of an unfollowed run it reads only an offer of work, and only if a followed
        run can be replaced.
        """
        run, term = message.run, message.term
        followed = self.runs.get(run) or self._new_run(run)
        if term < followed.term or (run not in self.runs and not isinstance(message, Round | Beacon)):
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
            followed.term, followed.index, followed.hello_at = term, None, now + pause_s
            self._next.pop(run, None)  # a round of the earlier term; the one of this term is sent, or requested
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
                and (self.working is None or self.working[0] != run)
            ]
            if not silent:
                return False
            run = min(silent)[-1]
            self._next.pop(run, None)
            self._output.drops += [(run, number) for number in self.runs.pop(run).pending]
        return True

    def _on_round(self, packet: Packet, message: Round, followed: FollowedRun, now: float) -> None:
        self._check_bit(message.run, followed, message.round - 1, message.acknowledged)
        model_digest = digest_of(message.arrays)
        pending = followed.pending.get(message.round)
        if pending is not None and pending.result.model_digest != model_digest:
            self._release(message.run, followed, message.round)  # of a term that was restarted at an earlier round
        if message.term == followed.round_term:
            new = message.round > followed.round
        else:  # the same round of a later term is the same work; any other one, even a lower one, is new
            in_work = self.working == (message.run, message.round) and self._model_digest == model_digest
            new = message.round not in followed.pending and not in_work
        cost = cost_of(message, self.fraction_bits)
        if new and not followed.declined and not self.budget.allows(message.run, cost.evaluations):
            self._output.spends += self.budget.close(message.run)
            text = f"run {message.run}: another round would go beyond --max-evaluations {self.budget.cap}"
            self._output.notices.append(Notice(f"{text}: takes no further part in it", message.run, warning=True))
            self._decline(message.run, followed)
        elif followed.declined:
            self._decline(message.run, followed)  # again: the first Goodbye may have been lost
        elif new:
            self._cancel(message.run)
            self._next[message.run] = packet
        if new or message.term != followed.round_term:
            followed.round, followed.round_term = message.round, message.term
        if followed.index is None:
            self._hello(message.run, followed, now)

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
        followed.last_message_at = -math.inf
        for number in list(followed.pending):
            self._release(message.run, followed, number)

    def _on_refused(self, message: Refused, followed: FollowedRun, now: float) -> None:
        reason = message.reason if message.reason in _REASONS else OTHER_REASON
        self.refusals[reason] = self.refusals.get(reason, 0) + 1
        if message.round:
            self._release(message.run, followed, message.round)
            what = f"the result of round {message.round}"
        else:
            followed.hello_at = now + REFUSED_HELLO_AGAIN_S
            what = f"this trainer's request to take part in run {message.run}"
        text = f"{what} was refused: {message.reason}: {message.detail}"
        self._limited(f"refused {reason}", text, message.run, message.round)

    def _check_bit(self, run: str, followed: FollowedRun, number: int, bitmap: bytes) -> None:
        """Drop the result of round `number` if this trainer's bit says that it is committed."""
        index = followed.index
        if index is not None and index // 8 < len(bitmap) and bitmap[index // 8] >> index % 8 & 1:
            self._acknowledged(run, followed, number)

    def _acknowledged(self, run: str, followed: FollowedRun, number: int) -> None:
        if number in followed.pending:
            self._output.notices.append(Notice(f"the result of round {number} of run {run} is accepted", run, number))
        self._release(run, followed, number)

    def _release(self, run: str, followed: FollowedRun, number: int) -> None:
        """Drop a pending result for good: its round is never worked on again."""
        if (delivery := followed.pending.pop(number, None)) is not None:
            self._output.marks += self.marks.reached(run, delivery.result.term, number)
            self._output.drops.append((run, number))

    def _pause_s(self, followed: FollowedRun) -> float:
        """Return a random delay for what many trainers do at one moment; 0 if they are few."""
        return followed.spread_s * float(self._jitter.random()) if followed.spread_s > HELLO_AGAIN_S else 0.0

    def _on_connected(self, now: float) -> None:
        self._connected = True
        for followed in self.runs.values():
            if followed.last_message_at > -math.inf or followed.pending:
                followed.last_message_at = now  # the time without a broker does not count as silence
            for delivery in followed.pending.values():
                delivery.send_at = now + max(self._pause_s(followed), 0.2 * float(self._jitter.random()))

    def _reject(self, rejected: Rejected) -> None:
        self.rejections[rejected.reason] = self.rejections.get(rejected.reason, 0) + 1
        if isinstance(rejected, CodeRefused | QueryRefused):
            self._limited(str(rejected), f"takes no part: {rejected}")
        else:
            self._limited(rejected.reason, f"a message was rejected: {rejected}")

    # --- work ---------------------------------------------------------------------------------------------------

    def _on_work_done(self, event: WorkDone, now: float) -> None:
        if self.working != (event.run, event.round):
            return  # it was cancelled
        self.working = None
        self._fits.add(event.run)
        text = f"round {event.round} of run {event.run} took {event.train_s:.3f} s"
        self._output.notices.append(Notice(text, event.run, event.round))
        followed = self.runs[event.run]
        fraction_bits = self._cost.fraction_bits
        done = event._replace(arrays=quantize(event.arrays, fraction_bits))
        result = PendingResult(
            **done._asdict(), term=followed.round_term, model_digest=self._model_digest, fraction_bits=fraction_bits
        )
        followed.pending[event.round] = Delivery(result, send_at=now)
        self._output.keeps.append(result)
        self._output.spends += self.budget.spend(event.run, self._cost.evaluations)
        while len(followed.pending) > PENDING_MAX:
            self._release(event.run, followed, min(followed.pending))

    def _on_work_failed(self, event: WorkFailed, now: float) -> None:
        if self.working != (event.run, event.round):
            return  # it was cancelled
        self.working = None
        error, followed = event.error, self.runs[event.run]
        if isinstance(error, Rejected):
            self._reject(error)
            if isinstance(error, CodeRefused | QueryRefused):
                self._decline(event.run, followed)
        elif not isinstance(error, BadData):
            self._fail(error, now)
        elif self._fits - {event.run}:  # the rows fit another run: leave this one to other trainers
            self._decline(event.run, followed)
            self._limited(str(error), f"takes no part: {error}", event.run)
        elif followed.live:
            self._fail(error, now)
        else:
            self._unfit[event.run] = error

    def _check_unfit(self, now: float) -> None:
        """Fail if the rows fit no run and one that they do not fit is live. A round kept by the broker is no proof."""
        if self._fits or self.done:
            return
        for run, error in self._unfit.items():
            if run in self.runs and self.runs[run].live:
                self._fail(error, now)
                return

    def _fail(self, error: Exception, now: float) -> None:
        self._output.failure = error
        self._stop_by = now
        self._next.clear()

    def _resend(self, now: float) -> None:
        if not self._connected:
            return
        for run, followed in self.runs.items():
            number = max(followed.pending, default=0)  # the newest, which the aggregator needs most
            if number and now >= followed.pending[number].send_at:
                delivery = followed.pending[number]
                delivery.attempt += 1
                delivery.send_at = now + delivery.backoff_s * (0.5 + float(self._jitter.random()))
                delivery.backoff_s = min(2 * delivery.backoff_s, RESEND_MAX_S)
                result = delivery.result.result(self.name, self.num_examples, followed.term, delivery.attempt)
                self._send(run, result, delivery.result.arrays)

    def _start_or_end(self, now: float) -> None:
        """Start the next work, or end when the trainer is asked to and has nothing left to wait for."""
        if self._stop_by is not None:
            waits = self.working is not None or any(followed.pending for followed in self.runs.values())
            if now >= self._stop_by or not waits or not self._connected:
                self._end()
            return
        if self.working is None and self._next:
            run, packet = self._next.popitem(last=False)
            message = packet.message
            assert isinstance(message, Round)
            self.working = (run, message.round)
            self._model_digest, self._cost = digest_of(message.arrays), cost_of(message, self.fraction_bits)
            self._output.start = packet

    def _end(self) -> None:
        self.done = True
        self._output.cancel, self.working = self._output.cancel or self.working is not None, None
        for run, followed in self.runs.items():
            self._send(run, Goodbye(run=run, term=followed.term, trainer=self.name))

    def _decline(self, run: str, followed: FollowedRun) -> None:
        self._cancel(run)
        followed.declined = True
        self._send(run, Goodbye(run=run, term=followed.term, trainer=self.name))

    def _cancel(self, run: str) -> None:
        """Give up all work on a run."""
        self._next.pop(run, None)
        if self.working is not None and self.working[0] == run:
            self._output.cancel, self.working = True, None

    # --- outputs ------------------------------------------------------------------------------------------------

    def _send(self, run: str, message: FromTrainer, arrays: dict[str, Array] | None = None) -> None:
        self._output.sends.append(Outgoing(topics.UP + run, message, arrays))

    def _hello(self, run: str, followed: FollowedRun, now: float, again_s: float = HELLO_AGAIN_S) -> None:
        if now < followed.hello_at or self._stop_by is not None:
            return
        if followed.declined or not self.budget.allows(run, 1):
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

    def _limited(self, kind: str, text: str, run: str | None = None, round: int | None = None) -> None:
        """Add a warning that a peer can cause at any rate."""
        self._output.notices.append(Notice(text, run, round, warning=True, kind=kind, again_s=NOTICE_AGAIN_S))
