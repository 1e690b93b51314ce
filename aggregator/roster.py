"""The roster: the trainers of a run, in one term.

A trainer is *present* while its inbox is subscribed at the broker. One that has only sent messages is present until it
misses a deadline: the broker's notice may be lost. It is a *member*, and its rows count, from its first result until it
says goodbye or has been absent for `forget_s`. A control command can *bar* a name from a round on: it is *eligible* for
none of these rounds, and its rows do not count in them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fedmq.errors import Rejected
from fedmq.tasks.task import TRAINERS_MAX

HELLO_S = 0.4  # between two accepted hellos; a trainer sends the next one after 0.5 s at the earliest


class Introduction(NamedTuple):
    """What a trainer states in its Hello; `fingerprint` is of its key, "" without keys."""

    version: str = ""
    labels: tuple[str, ...] = ()
    fingerprint: str = ""


NO_INTRODUCTION = Introduction()


@dataclass
class RosterEntry:
    """One trainer."""

    name: str
    index: int  # its bit in the bitmap of a beacon, for this term
    num_examples: int
    joined_at: float
    present: bool = True
    confirmed: bool = False  # by the broker: a trainer's own messages may arrive after its end
    gone: bool = False  # said goodbye
    absent_since: float = 0.0  # only while not present
    results: int = 0
    late: int = 0
    rejected: int = 0
    resent: int = 0
    introduction: Introduction = NO_INTRODUCTION
    hello_from: float = 0.0  # its next hello is accepted then


class Roster:
    """The trainers of this term, in the order of their first message."""

    def __init__(self, forget_s: float) -> None:
        self._forget_s = forget_s
        self._trainers: dict[str, RosterEntry] = {}
        self._unconfirmed: set[str] = set()
        self.grace_until: float | None = None  # after a broker restart
        self._barred: dict[str, int] = {}  # the first barred round, by name

    def __getitem__(self, name: str) -> RosterEntry:
        return self._trainers[name]

    def __contains__(self, name: str) -> bool:
        return name in self._trainers

    def __len__(self) -> int:
        return len(self._trainers)

    @property
    def trainers(self) -> list[RosterEntry]:
        """All trainers, in roster order."""
        return list(self._trainers.values())

    @property
    def present(self) -> list[str]:
        return [trainer.name for trainer in self._trainers.values() if trainer.present]

    def bitmap(self, has: Callable[[str], bool]) -> bytes:
        """Return a bit for each trainer, by its index: 1 where `has(name)`."""
        bitmap = bytearray(-(-len(self._trainers) // 8))
        for trainer in self._trainers.values():
            if has(trainer.name):
                bitmap[trainer.index // 8] |= 1 << trainer.index % 8
        return bytes(bitmap)

    def eligible(self, round: int) -> list[str]:
        """Return the present trainers that are not barred from this round."""
        return [name for name in self.present if not self.is_barred(name, round)]

    def is_barred(self, name: str, round: int) -> bool:
        """Return whether `name` is barred from this round."""
        return name in self._barred and round >= self._barred[name]

    def check_barred(self, name: str, round: int) -> None:
        """Check that `name` is not barred from this round.

        Raises:
            Rejected: it is.
        """
        if self.is_barred(name, round):
            since = self._barred[name]
            raise Rejected("barred", f"drained before round {since}" if since else "banned")

    def bar(self, name: str, first: int) -> bool:
        """Bar `name` from round `first` on; False if it is already."""
        if self.is_barred(name, first) or len(self._barred) >= TRAINERS_MAX:
            return False
        self._barred[name] = first
        return True

    def readmit(self, name: str) -> bool:
        """Lift a bar; False if there is none."""
        return self._barred.pop(name, None) is not None

    def join(
        self,
        name: str,
        num_examples: int,
        now: float,
        *,
        confirmed: bool = False,
        introduction: Introduction | None = None,
    ) -> bool:
        """Mark a trainer as present: it has sent a message, or the broker has `confirmed` it.

        Returns True if it was absent before, or its introduction is new.

        Raises:
            Rejected: a beacon has no bit for one more trainer.
        """
        trainer = self._trainers.get(name)
        new = trainer is None or not trainer.present
        if trainer is None:
            if len(self._trainers) >= TRAINERS_MAX:
                raise Rejected("names", f"expected at most {TRAINERS_MAX} trainers in one life of an aggregator")
            trainer = self._trainers[name] = RosterEntry(name, len(self._trainers), num_examples, now)
        trainer.num_examples, trainer.present, trainer.gone = num_examples, True, False
        trainer.confirmed = trainer.confirmed or confirmed
        self._unconfirmed.discard(name)
        if introduction is not None:
            new = new or introduction != trainer.introduction
            trainer.introduction, trainer.hello_from = introduction, now + HELLO_S
        return new

    def count(self, name: str, num_examples: int, *, late: bool, again: bool) -> None:
        trainer = self._trainers[name]
        trainer.num_examples = num_examples
        trainer.results += 1
        trainer.late += late
        trainer.resent += again

    def may_ask(self, name: str, now: float) -> bool:
        """Return whether a hello of `name` is accepted now. Its rate is limited, because the answer may be large."""
        trainer = self._trainers.get(name)
        return trainer is None or now >= trainer.hello_from

    def leave(self, name: str, now: float, *, for_good: bool = False) -> bool:
        """Mark a trainer as absent; return whether it was present."""
        trainer = self._trainers.get(name)
        if trainer is None:
            return False
        was, trainer.present, trainer.confirmed = trainer.present, False, False
        trainer.gone = trainer.gone or for_good
        if was:
            trainer.absent_since = now
        return was

    def time_out(self, names: Iterable[str], now: float) -> list[str]:
        """Mark those trainers that missed a deadline as absent that the broker has not confirmed; return them."""
        return sorted(name for name in names if not self._trainers[name].confirmed and self.leave(name, now))

    def mark_unconfirmed(self) -> None:
        """Require all present trainers to be seen again: the broker is down."""
        self._unconfirmed = set(self.present)

    def begin_grace(self, now: float, grace_s: float) -> None:
        """Give unconfirmed trainers `grace_s` to be seen again: the broker is up."""
        self.grace_until = now + grace_s if self._unconfirmed else None

    def expire(self, now: float) -> list[str]:
        """At the end of the grace, mark the trainers as absent that were not seen again; return them."""
        if self.grace_until is None or now < self.grace_until:
            return []
        self.grace_until = None
        lost = sorted(name for name in self._unconfirmed if self.leave(name, now))
        self._unconfirmed = set()
        return lost

    def members(self, now: float, round: int) -> list[str]:
        """Return the trainers whose rows count in this round, sorted."""
        return sorted(
            trainer.name
            for trainer in self._trainers.values()
            if trainer.results
            and not trainer.gone
            and (trainer.present or now - trainer.absent_since < self._forget_s)
            and not self.is_barred(trainer.name, round)
        )

    def pending(self, now: float, round: int) -> list[str]:
        """Return the present trainers whose first result may still arrive."""
        return [
            trainer.name
            for trainer in self._trainers.values()
            if trainer.present
            and not trainer.results
            and now - trainer.joined_at < self._forget_s
            and not self.is_barred(trainer.name, round)
        ]

    def restore(self, name: str, num_examples: int, results: int, now: float, *, gone: bool = False) -> None:
        """Add a trainer of an earlier term as absent. Its rows count until it is forgotten, unless it is `gone`."""
        index = len(self._trainers)
        self._trainers[name] = RosterEntry(
            name, index, num_examples, now, present=False, absent_since=now, results=results, gone=gone
        )
