"""The rounds of a secure run: the aggregator learns the totals of answers only. A state machine without I/O.

WAITING      until a sum is prepared: keys, cohort, shares             -> COLLECTING: asks its dealers
COLLECTING   masked answers                                            -> CONSISTENCY, or WAITING: too few
CONSISTENCY  signatures of the list of survivors                       -> UNMASKING, or WAITING: too few
UNMASKING    one share of each signer for each dealer: the total       -> CLOSING, as in any run

Before UNMASKING no share was revealed: a sum that fails, or that a later life lacks, is abandoned, and the same
question is asked in the next sum. From UNMASKING on the question is **spent**: it is asked in no other sum. A round
whose question is spent closes at once, with the total that is known.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from fedmq.aggregator.deadline import AdaptiveDeadline
from fedmq.aggregator.machine import Phase
from fedmq.aggregator.participants import Participants
from fedmq.aggregator.roster import Roster
from fedmq.aggregator.rounds import Rounds
from fedmq.aggregator.sums import RunSum, Sums
from fedmq.algorithms.base import AdditiveQuery, Strategy, is_finished
from fedmq.algorithms.staged import asking_once
from fedmq.errors import BadConfiguration, Rejected
from fedmq.observe import events
from fedmq.protocol import topics
from fedmq.protocol.codec import MASKED, PARTS, Packet, pack
from fedmq.protocol.messages import SECURE_VERSION, Hello, Result, SumReply
from fedmq.protocol.run_config import SECURE_TRAINERS_MIN, RunConfig
from fedmq.runs.records import OpenSum, StoredTotal, TotalHeader
from fedmq.runtime.clock import earliest
from fedmq.secure_sums.aggregator import SumPhase
from fedmq.secure_sums.messages import (
    MEMBERS_MAX,
    FromTrainer,
    Keys,
    ListSignature,
    MaskedInput,
    OpenedTotal,
    QuestionSpent,
    RevealedShares,
    SharesRefused,
    parts_from_bytes,
    parts_to_bytes,
)
from fedmq.secure_sums.question import answer_of, length_of, question_of, unflat

# For the keys or the shares of trainers that are present: then the sum goes on without the others. Too few double it.
PREPARE_S, PREPARE_MAX_S = 5.0, 600.0
# Until a trainer is asked again that has not answered: at first more for each trainer, and this part of the deadline
# that its step would have, so that nothing is repeated which is on its way.
AGAIN_S, AGAIN_MAX_S = 0.5, 8.0
AGAIN_EACH_S, AGAIN_PART = 0.02, 0.25
TOTALS_MAX = 8  # that are kept in memory for a question that is asked again
REPEATED_MAX = 3  # rounds in a row; an algorithm may repeat one question about each of its stages
ABANDONED_MAX = 5  # doublings of a deadline that too few trainers meet


class SecureRounds(Rounds):
    """The rounds of one secure run, in one term.

    `sums` are new. `totals` are those of earlier rounds, newest first; `open_sum` is the sum that an earlier life has
    begun to open.
    """

    version_min = SECURE_VERSION

    def __init__(
        self,
        config: RunConfig,
        term: int,
        strategy: Strategy[Any],
        state: Any,
        roster: Roster,
        *,
        sums: Sums,
        totals: Iterable[StoredTotal] = (),
        open_sum: OpenSum | None = None,
        **others: Any,
    ) -> None:
        self._sums = sums
        self._spent: dict[bytes, StoredTotal | None] = {}  # by question; None: it is one too many to keep
        self._question: bytes | None = None  # of the open round, or the one to open
        self._repeated = 0  # rounds in a row whose question was spent before
        self._results: dict[str, tuple[Result, float]] = {}  # with masked answers, and the seconds they took
        self._rows: dict[str, int] = {}  # of their trainers
        self._why: events.Why = "complete"
        self._prepare_s, self._prepare_by = PREPARE_S, 0.0
        self._stepped_at = 0.0  # when the phase began
        self._steps = AdaptiveDeadline(None, ())
        self._again_at, self._again_s = 0.0, AGAIN_S
        self._abandoned = 0  # sums of the open round
        self._left_out: set[str] = set()  # dealers of shares that others could not decrypt
        super().__init__(config, term, asking_once(strategy), state, roster, **others)
        if (least := config.limits.min_trainers) < SECURE_TRAINERS_MIN:
            raise BadConfiguration(f"secure: expected min_trainers of at least {SECURE_TRAINERS_MIN}, got {least}")
        newest = [*islice(totals := iter(totals), TOTALS_MAX)]
        self._spent.update((total.header.question, None) for total in totals)
        for total in reversed(newest):
            self._remember(total)
        if open_sum is not None and open_sum.round == self.round and self.phase is not Phase.FINISHED:
            self._restore(open_sum)

    def _restore(self, record: OpenSum) -> None:
        """Go on with opening the sum of an earlier life."""
        self._published.open(self.round, self._strategy.ask(self._state))
        self._question = self._sums.restore(record).machine.question
        self._rows = dict(record.rows)
        self.phase = Phase.UNMASKING

    @property
    def wake_at(self) -> float | None:
        """See `Rounds`: also when trainers are to be asked again."""
        due = super().wake_at
        return earliest(due, self._again_at) if self._broker_up and self.phase is not Phase.FINISHED else due

    # --- inputs ---------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        super()._connect()
        self._stepped_at = self._again_at = self._now
        self._opened_at = self._opened_at or self._now  # of a sum of an earlier life

    def _hello(self, message: Hello, fingerprint: str) -> None:
        super()._hello(message, fingerprint)
        self._ask({message.trainer})  # not all: many trainers may say hello at once

    def _tell(self, message: Result, packet: Packet, held: int) -> None:
        """Give a masked answer to the current sum; the trainer has `held` rows."""
        name = message.trainer
        if message.sum is None:
            raise Rejected("query", "expected a masked answer, got a plain one: the run is secure")
        self._staleness(message)
        try:
            self._take_parts(name, packet)
        except Rejected as rejected:
            self._reject(name, rejected)  # the answer is good
        current = self._sums.current
        if current is None or message.sum != current.machine.sum_id or MASKED not in packet.arrays:
            return  # of an abandoned sum: the trainer answers again in the next one
        self._sums.receive(name, MaskedInput(message.sum, packet.arrays[MASKED].tobytes()))
        if name in current.machine.answered and name not in self._results and self.phase is Phase.COLLECTING:
            self._results[name] = message, self._answered(name)
            self._publisher.progressed(self._now)
            self._steps.add(self._now - self._stepped_at)
            self._rows[name] = message.num_examples

    def _check_size(self, message: Result) -> None:
        """Check nothing: a sum knows how many numbers its answers have."""

    def _sum_reply(self, message: SumReply, packet: Packet) -> None:
        if message.trainer in self.roster and not self.roster.is_contested(message.trainer):
            self._take_parts(message.trainer, packet)

    def _take_parts(self, name: str, packet: Packet) -> None:
        """Take what a trainer adds to sums.

        Its keys for the next sum without its answer show that it has no secrets of this one: it was restarted. Of a
        spent question it sends no answer: an aggregator on an old copy of its store has asked that before.
        """
        if PARTS not in packet.arrays:
            return
        for part in parts_from_bytes(packet.arrays[PARTS].tobytes()):
            if not isinstance(part, FromTrainer):
                raise Rejected("header", f"expected messages of a trainer, got {type(part).__name__}")
            if isinstance(part, MaskedInput) or not self._sums.receive(name, part):
                continue
            of_next = self._sums.upcoming is not None and part.sum == self._sums.upcoming.machine.sum_id
            lost = isinstance(part, Keys) and isinstance(packet.message, SumReply) and of_next
            if lost or isinstance(part, QuestionSpent | SharesRefused):
                self._participants.exclude(name)
            if isinstance(part, ListSignature | RevealedShares):
                self._steps.add(self._now - self._stepped_at)

    # --- rounds ---------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Proceed as far as possible, then ask again what is due."""
        before = None
        while before != (before := (self.phase, self.round)):
            match self.phase:
                case Phase.WAITING:
                    self._open_if_ready()
                case Phase.COLLECTING:
                    self._collect()
                case Phase.CONSISTENCY:
                    self._agree()
                case Phase.UNMASKING:
                    self._unmask()
                case Phase.CLOSING | Phase.FINISHED:
                    return
        if self._broker_up and self._now >= self._again_at:
            self._ask_again()

    def _open(self, eligible: Sequence[str]) -> None:
        if not self._published.is_open:
            self._published.open(self.round, plan := self._strategy.ask(self._state))
            payload, _ = self._published.content(in_full=True)
            self._question = question_of(self._outbox.round_of(self.round, plan, payload))
        assert self._question is not None
        if self._question in self._spent:
            self._close_spent(self._question)
        elif len(present := set(eligible) - self._left_out) < self.config.limits.min_trainers:
            self._publisher.waiting(len(present), self.config.limits.min_trainers, self.roster.declined(self.round))
        elif self._is_prepared(present):
            self._prepare_s = PREPARE_S
            current = self._sums.open(self._question, self._length)
            dealers = current.machine.dealers
            self._participants = Participants()
            self._participants.add(dealers, self.roster.awaited(dealers))
            self._publish()
            self._stepped_at = self._now
            self._steps.begin(Phase.COLLECTING.value)
            self._send_all()

    @property
    def _length(self) -> int:
        plan = self._published.plan
        return length_of(answer_of(plan.query, self.config.task, plan.shapes))

    def _is_prepared(self, eligible: set[str]) -> bool:
        """Return whether the upcoming sum has its dealers; proceed with its preparation."""
        upcoming = self._sums.upcoming
        if upcoming is None or self._has_failed(upcoming, eligible):
            if upcoming is not None:
                self._prepare_s = min(PREPARE_MAX_S, 2 * self._prepare_s)
            number = self._sums.prepare()
            self._prepare_by = self._now + self._prepare_s
            self._outbox.send_sums(topics.SUMS + self.config.run, b"", number)
            return False
        machine, late = upcoming.machine, self._now >= self._prepare_by
        if machine.phase is SumPhase.ADVERTISING:
            present = machine.advertised & eligible
            if present >= eligible or (late and len(present) >= self.config.limits.min_trainers):
                self._fix_cohort(present)
                self._send_all()
            return False
        dealers = machine.dealers & eligible
        return len(dealers) >= machine.threshold and (late or dealers >= machine.members & eligible)

    def _has_failed(self, upcoming: RunSum, eligible: set[str]) -> bool:
        """Return whether too few of the cohort are there to deal shares."""
        machine = upcoming.machine
        if machine.phase is not SumPhase.SHARING:
            return machine.phase is not SumPhase.ADVERTISING
        possible = machine.members & eligible
        expected = machine.dealers & eligible if self._now >= self._prepare_by else possible
        return len(expected) < machine.threshold

    def _fix_cohort(self, names: set[str] | frozenset[str]) -> None:
        """Make these the cohort of the upcoming sum; of more than it may have, those that joined the run first."""
        first = [one.name for one in self.roster.trainers if one.name in names]
        self._sums.fix_cohort(first[:MEMBERS_MAX])
        self._prepare_by = self._now + self._prepare_s

    def _collect(self) -> None:
        """Close the list of survivors once all have answered that can, or at the deadline."""
        current = self._current
        if current.machine.phase is SumPhase.COLLECTING:
            if current.machine.is_spent:
                self._spend("trainers have helped to open this question before, and answer it once")
                return
            late = self._deadline is None or self._now >= self._deadline
            if self._participants.are_expected(self.roster) and not late:
                return
            self._why = "deadline" if late else "complete"
            enough = self._participants.have_quorum(self.config.limits.quorum)
            current.apply(current.machine.deadline() if enough else current.machine.abandon())
        else:
            self._why = "complete"
        if not self._failed():
            upcoming, eligible = self._sums.upcoming, set(self.roster.eligible(self.round + 1)) - self._left_out
            if upcoming is not None and upcoming.machine.phase is SumPhase.ADVERTISING:
                present = upcoming.machine.advertised & eligible
                if len(present) >= self.config.limits.min_trainers:
                    self._fix_cohort(present)
            self._step(Phase.CONSISTENCY)

    def _agree(self) -> None:
        """Ask for shares once the survivors have signed their list. Save before: from then on the question is spent."""
        current = self._current
        if current.machine.phase is SumPhase.CONSISTENCY:
            if not self._is_over(current.machine.answered - current.machine.signed):
                return
            current.apply(current.machine.deadline())
        if not self._failed():
            self._outbox.save(self._sums.record(self.round, self._rows))
            self._step(Phase.UNMASKING)

    def _unmask(self) -> None:
        """Give the total to the strategy once enough shares are revealed."""
        current = self._current
        machine = current.machine
        if self._deadline is not None and self._now >= self._deadline:
            self._deadline = None  # else it would be due again at once, until enough shares are there
        if machine.phase is SumPhase.UNMASKING:
            if len(machine.revealed) >= machine.threshold and self._is_over(machine.signers - machine.revealed):
                current.apply(machine.deadline())
            elif machine.is_spent or (self._broker_up and self._now >= self._stepped_at + self.config.limits.leave_s):
                current.apply(machine.abandon())
        if machine.total is not None:
            self._add_total(machine.total)
        elif machine.phase is SumPhase.ABANDONED:
            self._spend(machine.why)

    def _add_total(self, opened: OpenedTotal) -> None:
        """Tell the strategy the total, save it, and close the round."""
        plan = self._published.plan
        values = np.frombuffer(opened.values, "<i8").astype(np.int64)
        arrays = unflat(answer_of(plan.query, self.config.task, plan.shapes), values)
        total = self._total_of({name: self._rows[name] for name in opened.survivors}, arrays)
        try:
            self._state = self._strategy.tell(self._state, total.update)
        except Rejected as rejected:
            self._spend(str(rejected))
            return
        self._outbox.save(total)
        for name in opened.survivors:
            if name in self._results:
                message, answer_s = self._results[name]
                held = self.roster[name].num_examples if self._holds_more else message.num_examples
                self._count(message, held, 0, answer_s)
                continue
            self._accepted.setdefault(self.round, set()).add(name)  # an earlier life has received its answer
            self._counted += 1
            if name in self.roster:
                self.roster.count(name, self.roster[name].num_examples, staleness=0, again=True)
        self._remember(total)
        self._end_sum()
        self._close(self._why)

    def _spend(self, why: str) -> None:
        """Close the round without answers: shares were revealed, so the question is asked no more."""
        self._publisher.report(events.SumAbandoned(round=self.round, why=why, spent=True))
        total = self._total_of({}, {})
        self._outbox.save(total)
        self._remember(total)
        self._end_sum()
        self._close("spent")

    def _close_spent(self, question: bytes) -> None:
        """Close a round whose question is spent, with the trainers of its total as members; or end the run."""
        known, self._opened_at, repeated = self._spent[question], self._now, self._repeated + 1
        if known is None or not known.header.rows or repeated > REPEATED_MAX:
            if self.evaluation is not None and is_finished(self._strategy, self._state):
                self._finish(self.evaluation, "done")
                return
            self.failure = (
                f"secure: expected another question in round {self.round}, got one that trainers have answered, and "
                "answer once: start a new run, with --from if there is a model"
            )
            self._finish(self.evaluation, "failed")
            return
        self._publisher.opened(self.round, 0, self._now)
        total = known._replace(round=self.round)
        self._state = self._strategy.tell(self._state, total.update)
        self._outbox.save(total)
        self._close("spent", tuple(sorted(known.header.rows)))
        self._repeated = repeated

    def _close(self, why: events.Why, members: tuple[str, ...] | None = None) -> None:
        self._repeated, self._abandoned, self._question = 0, 0, None
        super()._close(why, members)
        self._prepare()

    def _failed(self) -> bool:
        """Return whether the current sum was abandoned before a share was revealed; then its round opens again."""
        machine = self._current.machine
        if machine.phase is not SumPhase.ABANDONED:
            return False
        self._publisher.report(events.SumAbandoned(round=self.round, why=machine.why))
        self._abandoned += 1
        self._left_out |= machine.bad_dealers
        self._end_sum()
        self._participants = Participants()
        self._deadline = None
        self.phase = Phase.WAITING
        self._prepare()
        return True

    def _prepare(self) -> None:
        """Wait for keys or shares of the next sum that have not come with those of the last one, and ask for them."""
        if self._sums.upcoming is not None:
            self._prepare_by = self._now + self._prepare_s
            self._again_at = self._now

    def _end_sum(self) -> None:
        self._sums.current = None
        self._results, self._rows = {}, {}

    def _publish(self) -> None:
        """Ask the dealers; each abandoned sum of the round doubles the deadline."""
        super()._publish()
        assert self._deadline is not None
        self._deadline_s *= 2.0 ** min(self._abandoned, ABANDONED_MAX)
        self._deadline = self._now + self._deadline_s

    def _step(self, phase: Phase) -> None:
        """Begin a phase, and send what it asks of the members."""
        self.phase, self._stepped_at = phase, self._now
        self._steps.begin(phase.value)
        self._deadline = self._now + self._steps.deadline_s
        self._send_all()

    def _is_over(self, missing: frozenset[str]) -> bool:
        """Return whether the phase goes on without these trainers."""
        late = self._deadline is None or self._now >= self._deadline
        return late or not any(self.roster.is_expected(name) for name in missing)

    @property
    def _current(self) -> RunSum:
        assert self._sums.current is not None
        return self._sums.current

    @property
    def _holds_more(self) -> bool:
        """Whether an answer is computed on a part of a trainer's rows."""
        return bool(self.config.task.holdout or self.config.task.schema is not None)

    def _total_of(self, rows: dict[str, int], arrays: Any) -> StoredTotal:
        assert self._question is not None
        infos, blobs = pack(arrays)
        query = self._published.plan.query
        bits = query.fraction_bits if isinstance(query, AdditiveQuery) else 0
        return StoredTotal(self.round, TotalHeader(self._question, rows, bits, infos), list(blobs))

    def _remember(self, total: StoredTotal) -> None:
        """Remember the question of a total, and the newest totals."""
        self._spent.pop(total.header.question, None)
        self._spent[total.header.question] = total
        kept = [question for question, one in self._spent.items() if one is not None]
        for question in kept[:-TOTALS_MAX]:
            self._spent[question] = None

    # --- outputs --------------------------------------------------------------------------------------------------

    @property
    def _sum_number(self) -> int | None:
        return self._current.name.number

    def _invited_bits(self) -> bytes | None:
        return self.roster.bitmap(self._current.machine.dealers)

    def _send_all(self) -> None:
        """Send what the phases of both sums ask of all members, and each dealer its question."""
        if messages := self._sums.to_publish():
            self._outbox.send_sums(topics.SUMS + self.config.run, parts_to_bytes(messages))
        for name, opening in self._sums.openings():
            self._outbox.send_sums(topics.inbox_of(name), parts_to_bytes([opening]))
        usual_s = AGAIN_PART * self._steps.deadline_s if self._steps.is_known else 0.0
        self._again_s = min(AGAIN_MAX_S, max(AGAIN_S + AGAIN_EACH_S * len(self.roster), usual_s))
        self._again_at = self._now + self._again_s

    def _ask_again(self) -> None:
        """Ask trainers again that have not answered, ever less often."""
        self._ask(self.roster.eligible(self.round))
        self._again_s = min(AGAIN_MAX_S, 2 * self._again_s)
        self._again_at = self._now + self._again_s

    def _ask(self, names: Collection[str]) -> None:
        """Ask those of the names again that have not answered."""
        if self.phase is Phase.FINISHED or not self._broker_up:
            return
        for request in self._sums.unanswered(one for one in self.roster.eligible(self.round) if one in names):
            parts = parts_to_bytes(request.messages) if request.messages else b""
            self._outbox.send_sums(topics.inbox_of(request.trainer), parts, request.advertise)
