"""What a trainer has sent in secure sums: a question is answered once, and a repeated request gets the same bytes.

An entry has no secret: its bytes have gone to the aggregator. Keys and received shares are in memory only.
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


class Entry(msgspec.Struct, frozen=True):
    """One question, the last sum in which the trainer answered it, and its messages there.

    It is on disk before they are sent.
    """

    question: Digest
    sum: Digest
    order: tuple[int, int]  # of the sum
    answer: MaskedInput
    survivors: bytes = b""  # the list that it signed
    signature: ListSignature | None = None
    shares: RevealedShares | None = None  # the question is spent


class Ledger:
    """The entries of one trainer, the last for each question; a journal of all is read in its order."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: dict[bytes, Entry] = {}  # by question
        self._questions: dict[bytes, bytes] = {}  # by sum
        for entry in entries:
            self.record(entry)

    def of_sum(self, sum_id: bytes) -> Entry | None:
        """Return the entry of the question that this sum asks, or None if a later sum asks it, too."""
        question = self._questions.get(sum_id)
        return None if question is None else self._entries[question]

    def check(self, question: bytes, order: tuple[int, int], questions_max: int | None) -> None:
        """Check that the trainer may answer this question in a sum of this order.

        Sums that ask one question go forward only. So the honest members that open one are missing in all later ones,
        and the totals of two sums differ by them.

        Raises:
            PolicyRefused: the question is spent, was answered in a later sum, or is one too many.
        """
        entry = self._entries.get(question)
        if entry is None and questions_max is not None and len(self._entries) >= questions_max:
            raise PolicyRefused(f"secure sum: expected at most {questions_max} questions, got another one")
        if entry is not None and entry.shares is not None:
            raise PolicyRefused(
                "secure sum: expected a new question, got one whose masks this trainer has helped to open"
            )
        if entry is not None and entry.order >= order:
            raise PolicyRefused("secure sum: expected a question in a later sum than before, got it in an earlier one")

    def record(self, entry: Entry) -> Entry:
        """Replace the entry of its question, and return it to be saved. An earlier sum of that question ends here."""
        old = self._entries.get(entry.question)
        if old is not None:
            del self._questions[old.sum]
        self._entries[entry.question] = entry
        self._questions[entry.sum] = entry.question
        return entry

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
