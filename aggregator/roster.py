"""The roster: who takes part in a run, who is here now, and who still counts.

Knows nothing of rounds' contents or of the network. A trainer is *present* while its inbox is subscribed at the
broker; one that is heard without the broker's word for it, which may be lost, is present until it misses a deadline.
It is a *member*, and its rows count, from its first result until it said goodbye or was away for `forget_s`.
An operator can *bar* a name from a round on: it is *eligible* for none of these, and its rows do not count in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from fedmq.errors import Rejected
from fedmq.tasks.task import TRAINERS_MAX

HELLO_S = 0.4  # between two hellos that are heeded; a trainer says the next one no sooner than after 0.5 s

Introduction = tuple[str, tuple[str, ...]]  # what a trainer says of itself: its version, its labels


@dataclass
class Trainer:
    """One line of the roster."""

    name: str
    index: int  # its bit in the beacon's bitmap, for this term
    num_examples: int
    met_at: float
    present: bool = True
    confirmed: bool = False  # by the broker, not only by its own messages: they may come after its end
    gone: bool = False  # said goodbye
    away_since: float = 0.0  # when it was last seen leaving; only while not present
    results: int = 0
    late: int = 0
    rejected: int = 0
    resent: int = 0
    words: Introduction = ("", ())
    asks_from: float = 0.0  # its next hello is heeded then


class Roster:
    """All trainers that this term of the aggregator has met, in the order in which it met them."""

    def __init__(self, forget_s: float) -> None:
        self._forget_s = forget_s
        self._trainers: dict[str, Trainer] = {}
        self._unconfirmed: set[str] = set()
        self._grace_until: float | None = None
        self._barred: dict[str, int] = {}  # from which round on, by name

    def __getitem__(self, name: str) -> Trainer:
        return self._trainers[name]

    def __contains__(self, name: str) -> bool:
        return name in self._trainers

    def __len__(self) -> int:
        return len(self._trainers)

    @property
    def trainers(self) -> list[Trainer]:
        """All of them, in roster order."""
        return list(self._trainers.values())

    @property
    def present(self) -> list[str]:
        """The names of those who are here."""
        return [trainer.name for trainer in self._trainers.values() if trainer.present]

    def bitmap(self, has: Callable[[str], bool]) -> bytes:
        """A bit for each trainer, by its index: 1 for the name of each that `has` it."""
        bitmap = bytearray(-(-len(self._trainers) // 8))
        for trainer in self._trainers.values():
            if has(trainer.name):
                bitmap[trainer.index // 8] |= 1 << trainer.index % 8
        return bytes(bitmap)

    def eligible(self, round: int) -> list[str]:
        """The names of those who are here and may take part in this round."""
        return [name for name in self.present if not self.is_barred(name, round)]

    def is_barred(self, name: str, round: int) -> bool:
        """Whether `name` may not take part in this round."""
        return name in self._barred and round >= self._barred[name]

    def check_barred(self, name: str, round: int) -> None:
        """Nothing, if `name` may take part in this round.

        Raises:
            Rejected: an operator has barred it.
        """
        if self.is_barred(name, round):
            since = self._barred[name]
            raise Rejected("barred", f"an operator has {f'drained it before round {since}' if since else 'banned it'}")

    def bar(self, name: str, first: int | None) -> bool:
        """From round `first` on `name` takes no part; None: it may take part again. True when that is new."""
        if first is None:
            return self._barred.pop(name, None) is not None
        if self.is_barred(name, first) or len(self._barred) >= TRAINERS_MAX:
            return False
        self._barred[name] = first
        return True

    @property
    def grace_until(self) -> float | None:
        """Until when nobody counts as gone after the broker came back; None: no such grace runs."""
        return self._grace_until

    def join(
        self, name: str, num_examples: int, now: float, *, confirmed: bool = False, words: Introduction | None = None
    ) -> bool:
        """`name` was heard, or `confirmed` by the broker, with so many rows; `words` is what its hello says of it.

        True when it was not present before, or has said something new.

        Raises:
            Rejected: a beacon has no bit for one more name.
        """
        trainer = self._trainers.get(name)
        new = trainer is None or not trainer.present
        if trainer is None:
            if len(self._trainers) >= TRAINERS_MAX:
                raise Rejected("names", f"expected at most {TRAINERS_MAX} trainers in one life of an aggregator")
            trainer = self._trainers[name] = Trainer(name, len(self._trainers), num_examples, now)
        trainer.num_examples, trainer.present, trainer.gone = num_examples, True, False
        trainer.confirmed = trainer.confirmed or confirmed
        self._unconfirmed.discard(name)
        if words is not None:
            trainer.words, trainer.asks_from, new = words, now + HELLO_S, new or words != trainer.words
        return new

    def count(self, name: str, num_examples: int, *, late: bool, again: bool) -> None:
        """A result of `name` about so many rows was accepted."""
        trainer = self._trainers[name]
        trainer.num_examples = num_examples
        trainer.results += 1
        trainer.late += late
        trainer.resent += again

    def may_ask(self, name: str, now: float) -> bool:
        """Whether a hello of `name` is heeded now; the next one is only after a while, as the answer may be large."""
        trainer = self._trainers.get(name)
        return trainer is None or now >= trainer.asks_from

    def leave(self, name: str, now: float, *, for_good: bool = False) -> bool:
        """`name` is away; True when it was present before."""
        trainer = self._trainers.get(name)
        if trainer is None:
            return False
        was, trainer.present, trainer.confirmed = trainer.present, False, False
        trainer.gone = trainer.gone or for_good
        if was:
            trainer.away_since = now
        return was

    def time_out(self, names: Iterable[str], now: float) -> list[str]:
        """Those of `names`, who let a deadline pass, of whom only their own messages said that they are here."""
        return sorted(name for name in names if not self._trainers[name].confirmed and self.leave(name, now))

    def mark_unconfirmed(self) -> None:
        """The broker is gone: whether anybody is still here is known only when it is seen again."""
        self._unconfirmed = set(self.present)

    def begin_grace(self, now: float, grace_s: float) -> None:
        """The broker is back: who is in doubt has `grace_s` to be seen again."""
        self._grace_until = now + grace_s if self._unconfirmed else None

    def expire(self, now: float) -> list[str]:
        """The names of those who were not seen again in the grace that has ended now; they are away."""
        if self._grace_until is None or now < self._grace_until:
            return []
        self._grace_until = None
        lost = sorted(name for name in self._unconfirmed if self.leave(name, now))
        self._unconfirmed = set()
        return lost

    def members(self, now: float, round: int) -> list[str]:
        """Those whose rows count now in this round, sorted: they have sent a result and are not gone for good."""
        return sorted(
            trainer.name
            for trainer in self._trainers.values()
            if trainer.results
            and not trainer.gone
            and (trainer.present or now - trainer.away_since < self._forget_s)
            and not self.is_barred(trainer.name, round)
        )

    def pending(self, now: float, round: int) -> list[str]:
        """Those who are present, have not sent any result yet, and may still be about to in this round or a later."""
        return [
            trainer.name
            for trainer in self._trainers.values()
            if trainer.present
            and not trainer.results
            and now - trainer.met_at < self._forget_s
            and not self.is_barred(trainer.name, round)
        ]

    def restore(self, name: str, num_examples: int, results: int, now: float, *, gone: bool = False) -> None:
        """A trainer of an earlier term: away, but its rows count until it is forgotten, unless it was `gone`."""
        index = len(self._trainers)
        self._trainers[name] = Trainer(
            name, index, num_examples, now, present=False, away_since=now, results=results, gone=gone
        )
