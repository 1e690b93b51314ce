"""A session's part in secure sums: requests of the aggregator in, keys, shares, masked answers and signatures out.

    Round with a sum    the masked answer, once it is there and the sum is open; keys for the next sum
    SumRequest          keys; shares for a cohort; the question; a list of survivors to sign; shares to reveal

What leaves is saved before, and what the site does not permit declines the run.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from fedmq.errors import PolicyRefused, Rejected
from fedmq.protocol.codec import PARTS, Array, Packet
from fedmq.protocol.messages import FromTrainer, Round, SumReply, SumRequest
from fedmq.secure_sums import trainer as sums
from fedmq.secure_sums.ledger import Entry
from fedmq.secure_sums.messages import (
    Cohort,
    EncryptedShares,
    MaskedInput,
    Opening,
    SharesRefused,
    SignedSurvivors,
    Survivors,
    parts_from_bytes,
)
from fedmq.trainer.budget import shapes_of
from fedmq.trainer.decline import Decline, decline_of
from fedmq.trainer.followed_run import FollowedRun
from fedmq.trainer.machine import LedgerFailed, Output
from fedmq.trainer.secure_answers import DAMAGED, SecureAnswers, masked_arrays, masked_message, parts_of


class SumSession:
    """The base of a session; `fedmq.trainer.session.Session` has all that is not about sums."""

    name: str
    runs: OrderedDict[str, FollowedRun]
    _output: Output  # of the step
    _stop_by: float | None  # set: the trainer is about to leave

    def __init__(self, secure: SecureAnswers) -> None:
        self.secure = secure
        self._cohorts: dict[str, Cohort] = {}  # of runs, to deal for

    @abstractmethod
    def _send(self, run: str, message: FromTrainer, arrays: dict[str, Array] | None = None) -> None: ...

    @abstractmethod
    def _refuse(self, run: str, followed: FollowedRun, decline: Decline) -> None: ...

    @abstractmethod
    def _reject(self, rejected: Rejected) -> None: ...

    @abstractmethod
    def _limited(self, kind: str, text: str, run: str | None = None, round: int | None = None) -> None: ...

    def _join_sum(self, message: Round, followed: FollowedRun, number: int, *, uninvited: bool) -> None:
        """Take part in the secure sum of the newest round: send the answer, if it is there, and keys for the next sum.

        Keys go with the answer, or at once without one.
        """
        run, followed.sum, followed.cohort = message.run, number, None
        if followed.declined is not None:
            return
        if refusal := self.secure.refusal(run):
            self._refuse(run, followed, Decline("policy", refusal))
            return
        followed.asked = None
        if not uninvited:
            shapes = shapes_of(message) if followed.chain is None or message.delta is None else followed.chain.shapes
            try:
                asked = self.secure.asked(message, shapes)
            except Rejected as rejected:
                self._refuse(run, followed, decline_of(rejected))
                return
            if self.secure.has_dealt(run, asked.sum):
                followed.asked = asked
                self._send_masked(run, followed)
                return
        self._send_keys(run, followed, number + 1)

    def _on_sum_request(self, packet: Packet, message: SumRequest, followed: FollowedRun) -> None:
        run = message.run
        if followed.declined is not None:
            return
        if refusal := self.secure.refusal(run):
            self._refuse(run, followed, Decline("policy", refusal))
            return
        try:
            parts = parts_from_bytes(packet.arrays[PARTS].tobytes()) if PARTS in packet.arrays else []
        except Rejected as rejected:
            self._reject(rejected)
            return
        if message.advertise:
            self._send_keys(run, followed, message.advertise)
        for part in parts:
            match part:
                case Cohort():
                    self._cohorts[run] = part
                case Opening():
                    self.secure.open(run, part)
                    self._send_masked(run, followed)
                case Survivors() | SignedSurvivors():
                    self._on_survivors(
                        part, next((one for one in parts if isinstance(one, Cohort)), None), run, followed
                    )
                case _:
                    self._reject(Rejected("header", f"expected a request of a secure sum, got {type(part).__name__}"))

    def _on_survivors(
        self, request: Survivors | SignedSurvivors, cohort: Cohort | None, run: str, followed: FollowedRun
    ) -> None:
        """Sign a list of survivors, which may come with the cohort of the next sum, or reveal shares."""
        shares = self._waiting_shares(run, followed) if cohort is None else None
        if followed.declined is not None:
            return
        with self._refusals(run, followed):
            if (output := self.secure.reply(run, request)) is not None:
                self._send_part(run, followed, output, shares)
                followed.cohort = cohort if isinstance(request, Survivors) else None

    def _deal(self, cohorts: Mapping[str, Cohort]) -> None:
        """Deal shares for the cohorts of the next sums; not if the trainer is about to leave."""
        for run, cohort in cohorts.items():
            followed = self.runs.get(run)
            if followed is None or followed.declined is not None or self._stop_by is not None:
                continue
            with self._refusals(run, followed):
                shares = self.secure.deal(run, cohort)
                if shares is not None and cohort is not followed.cohort:
                    followed.cohort = None
                    self._send_part(run, followed, sums.Output(None, shares))

    def _waiting_shares(self, run: str, followed: FollowedRun) -> EncryptedShares | None:
        """Return the shares that were to wait for those of the open sum, or None."""
        shares, cohort, followed.cohort = None, followed.cohort, None
        if cohort is not None and self._stop_by is None:
            self._cohorts.pop(run, None)
            with self._refusals(run, followed):
                shares = self.secure.deal(run, cohort)
        return shares

    def _send_keys(self, run: str, followed: FollowedRun, number: int) -> None:
        """Send keys for a sum; not if the trainer is about to leave."""
        if self._stop_by is None and (keys := self.secure.keys(run, followed.term, number)) is not None:
            self._send_part(run, followed, sums.Output(None, keys))

    def _send_part(
        self, run: str, followed: FollowedRun, output: sums.Output, more: EncryptedShares | None = None
    ) -> None:
        self._save_entry(run, output.save)
        reply = SumReply(run=run, term=followed.term, trainer=self.name)
        self._send(run, reply, parts_of(output.send) if more is None else parts_of(output.send, more))

    def _send_masked(self, run: str, followed: FollowedRun) -> None:
        """Send the masked answer that the sum of the newest round asks for, once it is there and the sum is open."""
        asked = followed.asked
        delivery = None if asked is None else followed.pending.get(asked.round)
        if asked is None or delivery is None or delivery.result.question != asked.question:
            return
        with self._refusals(run, followed):
            try:
                output = self.secure.answer(run, asked, delivery.result)
            except sums.DealerRefused as refused:
                self._limited("shares", f"is not in a sum of run {run}: {refused}", run)
                output = sums.Output(None, SharesRefused(asked.sum, refused.dealer))
            if output is None:
                return
            if not isinstance(output.send, MaskedInput):  # the aggregator waits for this trainer no more
                self._send_part(run, followed, output)
                self._send_keys(run, followed, asked.number + 1)
                return
            self._save_entry(run, output.save)
            delivery.attempt += 1
            plain = delivery.result.result(self.name, followed.term, delivery.attempt)
            keys = None if self._stop_by is not None else self.secure.keys(run, followed.term, asked.number + 1)
            self._send(run, masked_message(plain, asked), masked_arrays(output.send, keys))

    def _save_entry(self, run: str, entry: Entry | None) -> None:
        if entry is not None:
            self._output.entries.append((run, entry))
            self._output.entries += [(one, None) for one in self.secure.touch(run)]

    @contextmanager
    def _refusals(self, run: str, followed: FollowedRun) -> Iterator[None]:
        """Decline the run for what the site does not permit; count and log what an aggregator must not ask."""
        try:
            yield
        except PolicyRefused as error:
            self._refuse(run, followed, decline_of(error))
        except Rejected as rejected:
            self._reject(rejected)

    def _on_ledger_failed(self, event: LedgerFailed) -> None:
        self.secure.close(event.run)
        if (followed := self.runs.get(event.run)) is not None:
            self._refuse(event.run, followed, Decline("policy", DAMAGED))
