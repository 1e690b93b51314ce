"""The secure sums of a run in one term: that of the open round, and the one that is prepared for the next. No I/O.

The keys of the next sum arrive during the open round. So a round waits for none of them, unless a preparation failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from fedmq.errors import Rejected
from fedmq.runs.records import OpenSum
from fedmq.secure_sums.aggregator import Output, Saved, SumAggregator, SumPhase, saved_from_bytes, saved_to_bytes
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import Cohort, EncryptedShares, FromAggregator, FromTrainer, Keys, Opening
from fedmq.security.keys import PublicIdentity


class SumIdentities(NamedTuple):
    """The federation's id, and the identity of a member by its name."""

    federation: bytes
    find: Callable[[str], PublicIdentity | None]


@dataclass
class RunSum:
    """One sum, with the records that a later life needs to open it."""

    name: SumName
    machine: SumAggregator
    records: list[Saved] = field(default_factory=list)
    published: FromAggregator | None = None  # the newest message to all members

    def apply(self, output: Output) -> None:
        """Keep the records; what is sent follows from the phase, see `Sums.to_publish`."""
        self.records += output.save


class Request(NamedTuple):
    """What one trainer is asked again: for its keys of the sum of a number, 0 for none, and to answer messages."""

    trainer: str
    advertise: int
    messages: Sequence[FromAggregator]


class Sums:
    """The current sum, or None while no round is open, and the upcoming one, or None before the first."""

    def __init__(self, identities: SumIdentities, run: str, term: int) -> None:
        self._identities, self._run, self._term = identities, run, term
        self._number = 0  # of the newest sum
        self.current: RunSum | None = None
        self.upcoming: RunSum | None = None

    def prepare(self) -> int:
        """Begin another sum in place of the upcoming one; return its number."""
        self._number += 1
        name = SumName(self._identities.federation, self._run, self._term, self._number)
        self.upcoming = RunSum(name, SumAggregator(name))
        return self._number

    def fix_cohort(self, names: Collection[str]) -> None:
        """Make those of the names that have sent keys the cohort of the upcoming sum."""
        assert self.upcoming is not None
        self.upcoming.apply(self.upcoming.machine.fix_cohort(names))

    def open(self, question: bytes, length: int) -> RunSum:
        """Ask the dealers of the upcoming sum a question: it is the current one now, and another one is prepared."""
        assert self.upcoming is not None
        self.current = self.upcoming
        self.current.apply(self.current.machine.open(question, length))
        self.prepare()
        return self.current

    def receive(self, sender: str, message: FromTrainer) -> bool:
        """Take a message of a trainer; return False if it is of no sum that goes on.

        Raises:
            Rejected: the message does not fit its sum.
        """
        for one in (self.current, self.upcoming):
            if one is None or message.sum != one.machine.sum_id:
                continue
            if not isinstance(message, Keys):
                one.apply(one.machine.receive(sender, message))
            elif one.machine.phase is SumPhase.ADVERTISING:
                identity = self._identities.find(sender)
                if identity is None:
                    raise Rejected("sender", f"expected keys of a member, got those of {sender}")
                one.machine.join(identity, message)
            return True
        return False

    def to_publish(self) -> list[FromAggregator]:
        """Return the messages for all members, of both sums in their phases; each once, see `unanswered`."""
        due = []
        for one in (self.current, self.upcoming):
            if one is None or one.machine.phase not in (SumPhase.SHARING, SumPhase.CONSISTENCY, SumPhase.UNMASKING):
                continue
            message = next((message for _, message in one.machine.requests().send), None)
            if message is not None and message != one.published:
                one.published = message
                due.append(message)
        return due

    def openings(self) -> Iterator[tuple[str, Opening]]:
        """Yield the question for each dealer of the current sum that has not answered."""
        for name, message in () if self.current is None else self.current.machine.requests().send:
            if isinstance(message, Opening):
                yield name, message

    def unanswered(self, eligible: Iterable[str]) -> Iterator[Request]:
        """Yield what has to be asked again, of these trainers."""
        messages: dict[str, list[FromAggregator]] = {name: [] for name in eligible}
        for one in (self.current, self.upcoming):
            for name, message in () if one is None else one.machine.requests().send:
                if name in messages and not (isinstance(message, Cohort) and self._shares_follow(name)):
                    messages[name].append(message)
        for name, of_trainer in messages.items():
            advertise = self._number if self._lacks_keys(name) else 0
            if advertise or of_trainer:
                yield Request(name, advertise, of_trainer)

    def _shares_follow(self, name: str) -> bool:
        """Return whether a trainer has signed a list: it sends shares for the next sum with those that it reveals."""
        current = None if self.current is None else self.current.machine
        return current is not None and current.phase is SumPhase.CONSISTENCY and name in current.signed

    def _lacks_keys(self, name: str) -> bool:
        """Return whether a trainer has not sent keys for the upcoming sum. A dealer sends them with its answer."""
        if self.upcoming is None or self.upcoming.machine.phase is not SumPhase.ADVERTISING:
            return False
        working = self.current is not None and self.current.machine.phase is SumPhase.COLLECTING
        if working and self.current is not None and name in self.current.machine.dealers:
            return False
        return name not in self.upcoming.machine.advertised

    def record(self, round: int, rows: dict[str, int]) -> OpenSum:
        """Return what a later life needs to open the current sum: shares of dealers are with the trainers by then."""
        assert self.current is not None
        kept = (one for one in self.current.records if not isinstance(one.record, EncryptedShares))
        name = self.current.name
        return OpenSum(round, name.term, name.number, rows, saved_to_bytes(kept))

    def restore(self, record: OpenSum) -> RunSum:
        """Make the sum of an earlier life the current one."""
        name = SumName(self._identities.federation, self._run, record.term, record.number)
        saved = saved_from_bytes(record.messages)
        self.current = RunSum(name, SumAggregator.restore(name, saved), list(saved))
        return self.current
