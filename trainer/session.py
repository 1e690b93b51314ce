"""A trainer's session, as a state machine without sockets, threads or clocks: events and `now` in, effects out.

Knows nothing of how work is done. For each run that it hears of, a trainer is

    OFFERED   it said hello and waits to be welcomed (again after each beacon that it does not know the term of)
    WELCOMED  it has a place on the roster of the run's term

and, whichever run its one worker works for, it is

    IDLE      -> WORKING  when a round comes that is newer than what it has
    WORKING   -> HOLDING  when the work is done: the result is sent, and sent again with back-off until it is
                          accepted, refused, acknowledged by a beacon, or the run is over
              -> WORKING  when a newer round of that run comes: the old work is cancelled

A lower term than the highest that was seen is a zombie's and is ignored. What is held is saved before it is sent, and
of each run one result at a time is under way.

It follows `RUNS_MAX` runs. One more is taken in when one of them is silent, the one that was heard of longest ago going
first, and is ignored until then. Never is it the run that is worked on, and one whose result waits for an answer only
after a long silence; that result is given up, and its round may be worked on again. A run of which only a round is
known that the broker has kept, and one that it has left, make room at once.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from fedmq.protocol import topics
from fedmq.protocol.codec import Array, Packet, digest_of
from fedmq.protocol.fixed_point import FRACTION_BITS, quantize
from fedmq.protocol.messages import Beacon, Finished, FromAggregator, FromTrainer, Goodbye, Hello, Round, Welcome
from fedmq.runtime.clock import earliest
from fedmq.trainer.budget import Budget, evaluations_of
from fedmq.trainer.high_water_marks import HighWaterMarks
from fedmq.trainer.machine import (
    BrokerConnected,
    BrokerDisconnected,
    Effects,
    Event,
    MessageReceived,
    Outgoing,
    RunDeclined,
    StopRequested,
    WorkDone,
    WorkFailed,
)
from fedmq.trainer.pending_result import PendingResult

RUNS_MAX = 16  # followed at once
SILENT_S = 5.0  # without a word of a run, then another may take its place: an aggregator speaks four times a second,
HELD_SILENT_S = 60.0  # and so long where a result is held: an aggregator that is started again is back by then
HELD_MAX = 8  # results of one run that wait for an acknowledgement
HELLO_AGAIN_S, HERE_AGAIN_S = 0.5, 2.0
RESEND_S, RESEND_MAX_S = 0.5, 8.0
STOP_S = 4.0  # to finish the work, and then to see its result acknowledged


@dataclass
class Held:
    """A result that nobody has acknowledged yet."""

    kept: PendingResult
    attempt: int = 0
    send_at: float = 0.0
    backoff_s: float = RESEND_S


@dataclass
class KnownRun:
    """What a trainer knows of one run."""

    term: int
    round: int = 0  # the newest round that came,
    round_term: int = 0  # and the term that published it
    index: int | None = None  # on the roster; None while OFFERED
    hello_at: float = 0.0  # not before
    spread_s: float = 0.0  # over which those who come back at once are to spread
    heard_at: float = -math.inf  # or connected again since then; a run that is finished is not waited for
    live: bool = False  # its aggregator was heard, and not only a round that the broker has kept
    left: bool = False  # we take no part any more: it is told goodbye, whatever it publishes
    held: dict[int, Held] = field(default_factory=dict)  # by round

    @property
    def patience_s(self) -> float:
        """How long it keeps its place without a word."""
        if not self.live or (self.left and not self.held):
            return 0.0
        return HELD_SILENT_S if self.held else SILENT_S


class Session:
    """A trainer's side of all the runs that it hears of; `kept` is what an earlier life had not seen acknowledged.

    Losses leave in units of 2**-`fraction_bits`; `budget` says how many candidates of a run may be scored, `seen`
    what is too old to be heeded.
    """

    def __init__(
        self,
        name: str,
        num_examples: int,
        version: str,
        jitter: np.random.Generator,
        kept: Iterable[PendingResult] = (),
        *,
        fraction_bits: int = FRACTION_BITS,
        budget: Budget | None = None,
        seen: HighWaterMarks | None = None,
        labels: tuple[str, ...] = (),
    ) -> None:
        self.name, self.num_examples, self.version, self.fraction_bits = name, num_examples, version, fraction_bits
        self.labels = labels
        self.budget, self.seen = budget or Budget(), seen or HighWaterMarks()
        self.done = False
        self.runs: OrderedDict[str, KnownRun] = OrderedDict()
        self.working: tuple[str, int] | None = None  # run and round,
        self._model_digest, self._evaluations = b"", 0  # what it works on, and how much that costs
        self._next: OrderedDict[str, Packet] = OrderedDict()  # the newest round of each run that waits for the worker
        self._jitter = jitter
        self._connected = False
        self._stop_by: float | None = None
        self._effects = Effects()
        for one in sorted(kept, key=lambda one: (one.run, one.term, one.round)):
            known = self.runs.setdefault(one.run, self._new_run(one.run))
            known.term = max(known.term, one.term)
            known.round_term, known.round = max((known.round_term, known.round), (one.term, one.round))
            known.held[one.round], known.live = Held(one), True

    def is_live(self, run: str) -> bool:
        """Whether that run is followed, and its aggregator was heard."""
        return run in self.runs and self.runs[run].live

    @property
    def wake_at(self) -> float | None:
        """When the next `Tick` is due, at the latest."""
        if not self._connected:
            return self._stop_by
        return earliest(
            self._stop_by, *(known.held[max(known.held)].send_at for known in self.runs.values() if known.held)
        )

    def step(self, event: Event, now: float) -> Effects:
        """Take one event; what follows from it."""
        self._effects = Effects()
        if isinstance(event, MessageReceived):
            self._heard(event.packet, now)
        elif isinstance(event, BrokerConnected):
            self._on_connected(now)
        elif isinstance(event, BrokerDisconnected):
            self._connected = False
        elif isinstance(event, WorkDone):
            self._worked(event, now)
        elif isinstance(event, WorkFailed) and self.working == (event.run, event.round):
            self.working = None
        elif isinstance(event, RunDeclined) and event.run in self.runs:
            self._leave(event.run, self.runs[event.run])
        elif isinstance(event, StopRequested):
            self._stop_by = now if self._stop_by is not None else now + STOP_S
            self._next.clear()
        if not self.done:
            self._resend(now)
            self._go_on(now)
        return self._effects

    # --- what comes ---------------------------------------------------------------------------------------------

    def _heard(self, packet: Packet, now: float) -> None:
        message = packet.message
        if not isinstance(message, FromAggregator):
            return
        known = self._known(message, now)
        if known is None:
            return
        known.live = known.live or not isinstance(message, Round) or packet.topic != topics.inbox_of(self.name)
        if isinstance(message, Round):
            self._round(packet, message, known, now)
        elif isinstance(message, Beacon):
            self._beacon(message, known, now)
        elif isinstance(message, Finished):
            self._forget_work(message.run)
            known.heard_at = -math.inf
            for number in list(known.held):
                self._release(message.run, known, number)
        elif message.trainer != self.name:
            return
        elif isinstance(message, Welcome):
            known.index = message.index
        else:
            self._release(message.run, known, message.round)

    def _new_run(self, run: str) -> KnownRun:
        """A run as far as it is remembered."""
        mark = self.seen.of(run)
        return KnownRun(mark.term, mark.round, mark.term)

    def _known(self, message: FromAggregator, now: float) -> KnownRun | None:
        """What is known of the message's run, now at its term; None when it is not to be heeded.

        So it is with a message from an older life of the run's aggregator, and of runs that are not followed with all
        but the offer of work, for which there must be room.
        """
        run, term = message.run, message.term
        known = self.runs.get(run) or self._new_run(run)
        if term < known.term or (run not in self.runs and not isinstance(message, Round | Beacon)):
            return None
        if run not in self.runs and not self._makes_room(now):
            self._effects.ignores.append(run)
            return None
        self.runs[run], known.heard_at = known, now
        self.runs.move_to_end(run)
        if term > known.term:
            self._effects.marks += self.seen.reached(run, term)
            pause_s = self._pause_s(known)
            known.term, known.index, known.hello_at = term, None, now + pause_s
            self._next.pop(run, None)  # an older life's round; this one's comes, or is asked for
            for held in known.held.values():
                held.send_at, held.backoff_s = now + pause_s, RESEND_S
        return known

    def _makes_room(self, now: float) -> bool:
        """Whether one more run can be followed; may forget silent ones for it."""
        while len(self.runs) >= RUNS_MAX:
            silent = [
                (known.live, bool(known.held), known.heard_at, run)
                for run, known in self.runs.items()
                if now - known.heard_at >= known.patience_s and (self.working is None or self.working[0] != run)
            ]
            if not silent:
                return False
            run = min(silent)[-1]
            self._next.pop(run, None)
            self._effects.drops += [(run, number) for number in self.runs.pop(run).held]
        return True

    def _round(self, packet: Packet, message: Round, known: KnownRun, now: float) -> None:
        self._acknowledge(message.run, known, message.round - 1, message.acknowledged)
        model_digest = digest_of(message.arrays)
        if message.round in known.held and known.held[message.round].kept.model_digest != model_digest:
            self._release(message.run, known, message.round)  # of a life that went back to an earlier round
        if message.term == known.round_term:
            new = message.round > known.round
        else:  # the same round of a later life is the same work; another one, even a lower one, is what counts now
            at_work = self.working == (message.run, message.round) and self._model_digest == model_digest
            new = message.round not in known.held and not at_work
        if new and not known.left and not self.budget.allows(message.run, evaluations_of(message)):
            self._effects.spends += self.budget.close(message.run)
            self._effects.leaves.append(message.run)
            self._leave(message.run, known)
        elif known.left:
            self._leave(message.run, known)
        elif new:
            self._forget_work(message.run)
            self._next[message.run] = packet
        if new or message.term != known.round_term:
            known.round, known.round_term = message.round, message.term
        if known.index is None:
            self._hello(message.run, known, now)

    def _beacon(self, message: Beacon, known: KnownRun, now: float) -> None:
        known.spread_s = message.spread_s
        self._acknowledge(message.run, known, message.round, message.acknowledged)
        if known.index is None or (message.open and message.round > self._newest(known)):
            self._hello(message.run, known, now)
        elif message.waiting:
            self._hello(message.run, known, now, again_s=HERE_AGAIN_S)

    def _acknowledge(self, run: str, known: KnownRun, number: int, bitmap: bytes) -> None:
        """Forget the result of round `number` if our bit says that it is on disk."""
        index = known.index
        if index is not None and index // 8 < len(bitmap) and bitmap[index // 8] >> index % 8 & 1:
            self._release(run, known, number)

    def _release(self, run: str, known: KnownRun, number: int) -> None:
        """Forget a result for good: its round is never worked on again."""
        if (held := known.held.pop(number, None)) is not None:
            self._effects.marks += self.seen.reached(run, held.kept.term, number)
            self._effects.drops.append((run, number))

    def _pause_s(self, known: KnownRun) -> float:
        """How long to wait with what others do at the same moment; nothing among few."""
        return known.spread_s * float(self._jitter.random()) if known.spread_s > HELLO_AGAIN_S else 0.0

    def _on_connected(self, now: float) -> None:
        self._connected = True
        for known in self.runs.values():
            if known.heard_at > -math.inf or known.held:
                known.heard_at = now  # nobody could be heard until now
            for held in known.held.values():
                held.send_at = now + max(self._pause_s(known), 0.2 * float(self._jitter.random()))

    def _worked(self, event: WorkDone, now: float) -> None:
        if self.working != (event.run, event.round):
            return  # cancelled in the meantime
        self.working = None
        known = self.runs[event.run]
        arrays = quantize(event.arrays, self.fraction_bits)
        kept = PendingResult(
            event.run, known.round_term, event.round, arrays, event.train_s, self._model_digest, self.fraction_bits
        )
        known.held[event.round] = Held(kept, send_at=now)
        self._effects.keeps.append(kept)
        self._effects.spends += self.budget.spend(event.run, self._evaluations)
        while len(known.held) > HELD_MAX:
            self._release(event.run, known, min(known.held))

    # --- what follows -------------------------------------------------------------------------------------------

    def _resend(self, now: float) -> None:
        if not self._connected:
            return
        for run, known in self.runs.items():
            number = max(known.held, default=0)  # one at a time is under way: the newest, which is wanted most
            if number and now >= known.held[number].send_at:
                held = known.held[number]
                held.attempt += 1
                held.send_at = now + held.backoff_s * (0.5 + float(self._jitter.random()))
                held.backoff_s = min(2 * held.backoff_s, RESEND_MAX_S)
                self._send_result(run, known, held)

    def _go_on(self, now: float) -> None:
        """Start the next work, or end."""
        if self._stop_by is not None:
            waits = self.working is not None or any(known.held for known in self.runs.values())
            if now >= self._stop_by or not waits or not self._connected:
                self._end()
            return
        if self.working is None and self._next:
            run, packet = self._next.popitem(last=False)
            message = packet.message
            assert isinstance(message, Round)
            self.working = (run, message.round)
            self._model_digest, self._evaluations = digest_of(message.arrays), evaluations_of(message)
            self._effects.start = packet

    def _end(self) -> None:
        self.done = True
        self._effects.cancel, self.working = self._effects.cancel or self.working is not None, None
        for run, known in self.runs.items():
            self._send(run, Goodbye(run=run, term=known.term, trainer=self.name))

    def _leave(self, run: str, known: KnownRun) -> None:
        """Take no part in it. Each round that still comes is told goodbye: the last one may have been lost."""
        self._forget_work(run)
        known.left = True
        self._send(run, Goodbye(run=run, term=known.term, trainer=self.name))

    def _forget_work(self, run: str) -> None:
        self._next.pop(run, None)
        if self.working is not None and self.working[0] == run:
            self._effects.cancel, self.working = True, None

    @staticmethod
    def _newest(known: KnownRun) -> int:
        """The newest round of this term that came; 0: none yet."""
        return known.round if known.round_term == known.term else 0

    # --- what leaves --------------------------------------------------------------------------------------------

    def _send(self, run: str, message: FromTrainer, arrays: dict[str, Array] | None = None) -> None:
        self._effects.sends.append(Outgoing(topics.up_to(run), message, arrays))

    def _hello(self, run: str, known: KnownRun, now: float, again_s: float = HELLO_AGAIN_S) -> None:
        if now < known.hello_at or self._stop_by is not None or known.left or not self.budget.allows(run, 1):
            return
        known.hello_at = now + again_s
        hello = Hello(
            run=run,
            term=known.term,
            trainer=self.name,
            num_examples=self.num_examples,
            round=self._newest(known),
            version=self.version,
            labels=self.labels,
        )
        self._send(run, hello)

    def _send_result(self, run: str, known: KnownRun, held: Held) -> None:
        result = held.kept.result(self.name, self.num_examples, known.term, held.attempt)
        self._send(run, result, held.kept.arrays)
