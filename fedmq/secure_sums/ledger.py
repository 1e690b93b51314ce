"""What a trainer has sent in secure sums of one run: a question is answered once, in sums that go forward.

An entry has no secret: its bytes have gone to the aggregator. Keys and received shares are in memory only. Only the
last entry is repeated; of all others the questions count whose sums this trainer has helped to open.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fedmq.errors import PolicyRefused
from fedmq.protocol.messages import Digest
from fedmq.secure_sums.messages import (
    FromTrainer,
    ListSignature,
    MaskedInput,
    Opening,
    RevealedShares,
    SignedSurvivors,
    Survivors,
)

QUESTIONS_MAX = 100_000  # that a trainer helps to open in one run


class Entry(msgspec.Struct, frozen=True):
    """The messages of a trainer in one sum. It is on disk before they are sent."""

    question: Digest
    sum: Digest
    order: tuple[int, int]  # of the sum
    answer: MaskedInput | None = None  # None: that of the entry before
    survivors: bytes = b""  # the list that it signed
    signature: ListSignature | None = None
    shares: RevealedShares | None = None  # the question is spent

    @property
    def is_durable(self) -> bool:
        """Whether a power cut must not lose it. Without secrets, no trainer signs another list of the same sum."""
        return self.signature is None or self.shares is not None


class SpentRefused(PolicyRefused):
    """The trainer has helped to open a sum of this question: its answer in another one would be too much."""


class Ledger:
    """The spent questions of a run, and the last entry: the others are replaced by it."""

    def __init__(self, entries: Iterable[Entry] = (), spent: Iterable[bytes] = ()) -> None:
        self.spent = set(spent)
        self.last: Entry | None = None
        for entry in entries:
            self.record(entry)

    def of_sum(self, sum_id: bytes) -> Entry | None:
        """Return the entry of a sum, or None if the trainer has not answered in it, or in a later one, too."""
        return self.last if self.last is not None and self.last.sum == sum_id else None

    def check(self, question: bytes, order: tuple[int, int]) -> None:
        """Check that the trainer may answer this question in a sum of this order.

        Sums of a run go forward only. So the honest members that open a sum are missing in all later ones that ask the
        same question, and the totals of the two differ by them.

        Raises:
            SpentRefused: the question is spent.
            PolicyRefused: it is one too many, or the sum is not later than the last one.
        """
        if question in self.spent:
            raise SpentRefused(
                "secure sum: expected a new question, got one whose masks this trainer has helped to open"
            )
        if self.last is not None and order <= self.last.order:
            raise PolicyRefused("secure sum: expected a question in a later sum than before, got it in an earlier one")
        if len(self.spent) >= QUESTIONS_MAX:
            raise PolicyRefused(f"secure sum: expected at most {QUESTIONS_MAX} questions of a run, got another one")

    def record(self, entry: Entry) -> Entry:
        """Replace the last entry; return what is to be saved. The sum of the entry before ends here for the trainer."""
        if entry.answer is None and (last := self.of_sum(entry.sum)) is not None:
            entry = msgspec.structs.replace(entry, answer=last.answer)
        self.last = entry
        if entry.shares is not None:
            self.spent.add(entry.question)
        return entry if entry.signature is None else msgspec.structs.replace(entry, answer=None)

    def reset(self) -> None:
        """Let sums of any order come next: terms belong to the key of an aggregator, and it has another one."""
        if self.last is not None:
            self.last = msgspec.structs.replace(self.last, order=(0, 0))

    def reply(self, request: Opening | Survivors | SignedSurvivors) -> FromTrainer | None:
        """Return what the trainer has sent to the same request before, or None."""
        entry = self.of_sum(request.sum)
        if entry is None:
            return None
        match request:
            case Opening():
                return entry.answer if entry.question == request.question else None
            case Survivors():
                return entry.signature if entry.survivors == request.survivors else None
            case SignedSurvivors():
                return entry.shares if entry.survivors == request.survivors else None
