"""A trainer's part in secure sums, without I/O: the ledger of each run, and the newest sums of those it follows.

A sum is named by a digest, so what belongs to another federation, run or term is the request of an unknown sum: it is
ignored, as after a restart, when the secrets of a sum are gone.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

import msgspec
import numpy as np

from fedmq.algorithms.base import AdditiveQuery, ArrayBounds, Shapes
from fedmq.algorithms.private.query import PrivateQuery
from fedmq.algorithms.registry import decode_query
from fedmq.errors import PolicyRefused, Rejected
from fedmq.protocol.codec import MASKED, PARTS, Array
from fedmq.protocol.fixed_point import LOSSES
from fedmq.protocol.messages import SECURE_VERSION, Result, Round
from fedmq.secure_sums.ledger import Ledger, SpentRefused
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    Cohort,
    EncryptedShares,
    Keys,
    MaskedInput,
    Opening,
    QuestionSpent,
    SignedSurvivors,
    Survivors,
    parts_to_bytes,
)
from fedmq.secure_sums.messages import FromTrainer as SumMessage
from fedmq.secure_sums.policy import SumPolicy
from fedmq.secure_sums.question import answer_of, flat, length_of, question_of
from fedmq.secure_sums.shamir import Draw
from fedmq.secure_sums.trainer import Output, SumTrainer
from fedmq.trainer.machine import PendingResult, SumIdentity

SUMS_KEPT = 3  # of a run: the open one, the next one, and one before
LEDGERS_MAX = 100  # another run is another question anyway

NO_KEYS = "expected keys for a run with secure sums, got none: start this trainer with --keys"
DAMAGED = "the ledger of its secure sums cannot be used: see the log of this trainer"
REQUIRED = "--require-secure: expected a run with secure sums, got a plain one: begin the run with --secure"
HAS_SUMS = (
    "expected a run with secure sums as before, got a plain question: its answer could show what a sum has hidden: "
    "begin a run of another name"
)


class AskedSum(NamedTuple):
    """A round whose answers are masked: its sum, its question, and what an answer holds."""

    sum: bytes
    number: int
    round: int
    question: bytes
    bounds: Mapping[str, ArrayBounds]
    fraction_bits: int
    noise_shared: int = 0  # trainers among which the noise of a private question is divided; 0: it has none


class SecureAnswers:
    """The secure sums of all runs of a trainer; None for `member`: it has no keys, and refuses all.

    `ledgers` are from an earlier start, the one with the oldest change first, None for a damaged one. With `required`,
    the site answers no plain question. `draw` returns random bytes: only simulations replace it.
    """

    def __init__(
        self,
        member: SumIdentity | None = None,
        policy: SumPolicy | None = None,
        *,
        required: bool = False,
        ledgers: Iterable[tuple[str, Ledger | None]] = (),
        draw: Draw = os.urandom,
    ) -> None:
        self._member, self._policy, self.required, self._draw = member, policy or SumPolicy(), required, draw
        self._ledgers: OrderedDict[str, Ledger | None] = OrderedDict(ledgers)
        self._sums: dict[str, dict[bytes, SumTrainer]] = {}  # by run and sum
        self._openings: dict[str, dict[bytes, Opening]] = {}

    def refusal(self, run: str) -> str | None:
        """Return why the trainer takes no part in secure sums of a run, or None."""
        if self._member is None:
            return NO_KEYS
        return DAMAGED if self._ledgers.get(run, _NO_LEDGER) is None else None

    def plain_refusal(self, run: str) -> str | None:
        """Return why the trainer sends no plain answer to a run, or None.

        One of a run whose sums it has answered could show what they have hidden.
        """
        if self.required:
            return REQUIRED
        ledger = self._ledgers.get(run, _NO_LEDGER)
        if ledger is None:
            return DAMAGED
        return None if ledger.last is None else HAS_SUMS

    def asked(self, message: Round, shapes: Shapes) -> AskedSum:
        """Return what a round with a sum asks; `shapes` are those of the query's own arrays.

        Raises:
            Rejected: its answers cannot be summed.
        """
        assert message.sum is not None
        query, _ = decode_query(message.query)
        bounds = answer_of(query, message.task, shapes)
        assert isinstance(query, AdditiveQuery)
        sum_id = self._name(message.run, message.term, message.sum).id
        shared = query.noise.trainers if isinstance(query, PrivateQuery) else 0
        return AskedSum(sum_id, message.sum, message.round, question_of(message), bounds, query.fraction_bits, shared)

    def keys(self, run: str, term: int, number: int) -> Keys | None:
        """Return this trainer's keys for a sum, which is kept from now on; None if it is older than those kept."""
        assert self._member is not None
        name, sums = self._name(run, term, number), self._sums.setdefault(run, {})
        if name.id not in sums:
            oldest = min(sums.values(), key=lambda one: one.order, default=None)
            if oldest is not None and len(sums) == SUMS_KEPT:
                if name.order < oldest.order:
                    return None
                del sums[oldest.sum_id]
            policy, identity = self._policy, self._member.identity
            if policy.peers is not None:
                policy = replace(policy, peers=policy.peers | {identity.public.fingerprint})
            sums[name.id] = SumTrainer(name, identity, policy, self._ledger(run), self._draw)
        return sums[name.id].advertise()

    def deal(self, run: str, cohort: Cohort) -> EncryptedShares | None:
        """Return the shares for a cohort; None if this trainer is no member of it.

        Raises:
            Rejected, PolicyRefused: see `SumTrainer`.
        """
        one = self._sums.get(run, {}).get(cohort.sum)
        try:
            return None if one is None else one.deal(cohort)
        except Rejected as rejected:
            if rejected.reason == "uninvited":  # its keys of this sum came too late, or before a restart
                return None
            raise

    def has_dealt(self, run: str, sum_id: bytes) -> bool:
        """Return whether the trainer may be asked in a sum."""
        one = self._sums.get(run, {}).get(sum_id)
        return (one is not None and one.has_dealt) or self._ledger(run).of_sum(sum_id) is not None

    def open(self, run: str, opening: Opening) -> None:
        """Keep the question of a sum until there is an answer."""
        openings = self._openings.setdefault(run, {})
        openings[opening.sum] = opening
        while len(openings) > SUMS_KEPT:
            del openings[next(iter(openings))]

    def answer(self, run: str, asked: AskedSum, result: PendingResult) -> Output | None:
        """Return the masked answer, or that the question is spent.

        None as long as the sum is not opened, or if its secrets are gone.

        Raises:
            Rejected: see `SumTrainer`; or the sum asks another question than the round.
            PolicyRefused: see `SumTrainer`; or the total would have less noise than the question promises.
        """
        opening = self._openings.get(run, {}).get(asked.sum)
        if opening is None:
            return None
        if opening.question != asked.question or opening.length != length_of(asked.bounds):
            raise Rejected("query", "expected a sum that asks what its round asks, got another question")
        one = self._sums.get(run, {}).get(asked.sum)
        if one is not None and one.has_dealt:
            if asked.noise_shared > one.honest_min:
                raise PolicyRefused(
                    f"secure sum: expected noise in at most {one.honest_min} shares, as many as honest answers of a "
                    f"total, got {asked.noise_shared}"
                )
            values = flat(asked.bounds, _in_units(result, asked))
            try:
                return one.answer(opening, values)
            except SpentRefused:
                return Output(None, QuestionSpent(asked.sum))
        sent = self._ledger(run).reply(opening)
        return None if sent is None else Output(None, sent)

    def reply(self, run: str, request: Survivors | SignedSurvivors) -> Output | None:
        """Return the signature of a list, or the shares; None if this trainer has not answered, or is not listed.

        Raises:
            Rejected: see `SumTrainer`.
        """
        ledger = self._ledger(run)
        if ledger.of_sum(request.sum) is None:
            return None
        if (sent := ledger.reply(request)) is not None:
            return Output(None, sent)
        one = self._sums.get(run, {}).get(request.sum)
        if one is None:  # this process has not dealt the shares
            return Output(None, QuestionSpent(request.sum)) if isinstance(request, SignedSurvivors) else None
        try:
            return one.sign(request) if isinstance(request, Survivors) else one.reveal(request)
        except Rejected as rejected:
            if rejected.reason == "uninvited":  # its answer came too late
                return None
            raise

    def touch(self, run: str) -> list[str]:
        """Note that the ledger of a run has changed; return the runs whose ledgers are to be deleted."""
        self._ledgers.move_to_end(run)
        forgotten = []
        while len(self._ledgers) > LEDGERS_MAX:
            forgotten.append(self._ledgers.popitem(last=False)[0])
        return forgotten

    def close(self, run: str) -> None:
        """Refuse the secure sums of a run: its ledger cannot be written."""
        self.forget(run)
        self._ledgers[run] = None

    def forget(self, run: str) -> None:
        """Drop the secrets of a run's sums; its ledger stays."""
        self._sums.pop(run, None)
        self._openings.pop(run, None)
        if (ledger := self._ledgers.get(run)) is not None and ledger.last is None:
            del self._ledgers[run]

    def use(self, member: SumIdentity | None) -> None:
        """Take part with these keys from now on; the sums of others end."""
        if member != self._member:
            self._member = member
            self._sums.clear()
            self._openings.clear()

    def reset(self) -> None:
        """Forget the order of sums, whose terms were those of another aggregator's key; spent questions stay spent."""
        self._sums.clear()
        self._openings.clear()
        for ledger in self._ledgers.values():
            if ledger is not None:
                ledger.reset()

    def _name(self, run: str, term: int, number: int) -> SumName:
        assert self._member is not None
        return SumName(self._member.federation, run, term, number)

    def _ledger(self, run: str) -> Ledger:
        found = self._ledgers.setdefault(run, Ledger())
        assert found is not None, "see `refusal`"
        return found


_NO_LEDGER = Ledger()


def masked_message(plain: Result, asked: AskedSum) -> Result:
    """Return the message of a masked answer: it says of one trainer only how many rows it has."""
    return msgspec.structs.replace(
        plain,
        v=SECURE_VERSION,
        arrays=(),
        sum=asked.sum,
        fraction_bits=asked.fraction_bits,
        site_figures=False,
        metrics=msgspec.UNSET,
    )


def masked_arrays(answer: SumMessage, keys: Keys | None) -> dict[str, Array]:
    """Return the arrays of a masked answer, with the keys for the next sum."""
    assert isinstance(answer, MaskedInput)
    masked = {MASKED: np.frombuffer(answer.values, "<i8")}
    return masked if keys is None else {**masked, **parts_of(keys)}


def parts_of(*messages: SumMessage) -> dict[str, Array]:
    """Return the arrays of a SumReply with these messages."""
    return {PARTS: np.frombuffer(parts_to_bytes(messages), np.uint8)}


def _in_units(result: PendingResult, asked: AskedSum) -> Mapping[str, Array]:
    """Return the arrays of an answer, its losses in the units of the query, which are no coarser than the trainer's.

    Losses saturate at the bound of the query. To refuse them would show the aggregator, which chooses the bound,
    something of this trainer alone; beyond it the total would be wrong.
    """
    if LOSSES not in asked.bounds:
        return result.arrays
    shift, row = asked.fraction_bits - result.fraction_bits, asked.bounds[LOSSES]
    most = int(row.largest) * result.num_examples >> shift
    return {**result.arrays, LOSSES: np.minimum(result.arrays[LOSSES], most) << shift}
