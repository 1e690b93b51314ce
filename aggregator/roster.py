"""The roster: who takes part in a run, who is here now, and who still counts.

Knows nothing of rounds' contents or of the network. A trainer is *present* while its inbox is subscribed at the
broker; one that is heard without the broker's word for it, which may be lost, is present until it misses a deadline.
It is a *member*, and its rows count, from its first result until it said goodbye or was away for `forget_s`.
An operator can *bar* a name from a round on: it is *eligible* for none of these, and its rows do not count in them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedmq.errors import Rejected
from fedmq.messages import BITMAP_BYTES_MAX

TRAINERS_MAX = 8 * BITMAP_BYTES_MAX  # a beacon has a bit for each


@dataclass
class Trainer:
    """One line of the roster."""

    name: str
    index: int  # its bit in the beacon's bitmap, for this epoch
    samples: int
    met_at: float
    present: bool = True
    confirmed: bool = False  # by the broker, not only by its own messages: they may come after its end
    gone: bool = False  # said goodbye
    away_since: float = 0.0  # when it was last seen leaving; only while not present
    results: int = 0
    late: int = 0
    rejected: int = 0
    resent: int = 0
    introduced: tuple[str, tuple[str, ...]] = ("", ())  # what it said of itself: its version, its labels


class Roster:
    """All trainers that this epoch of the aggregator has met, in the order in which it met them."""

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

    def meet(self, name: str, samples: int, now: float, *, confirmed: bool = False) -> bool:
        """`name` was heard, or `confirmed` by the broker, with so many rows; True when it was not present before.

        Raises:
            Rejected: a beacon has no bit for one more name.
        """
        trainer = self._trainers.get(name)
        new = trainer is None or not trainer.present
        if trainer is None:
            if len(self._trainers) >= TRAINERS_MAX:
                raise Rejected("names", f"expected at most {TRAINERS_MAX} trainers in one life of an aggregator")
            trainer = self._trainers[name] = Trainer(name, len(self._trainers), samples, now)
        trainer.samples, trainer.present, trainer.gone = samples, True, False
        trainer.confirmed = trainer.confirmed or confirmed
        self._unconfirmed.discard(name)
        return new

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

    def missed(self, names: Iterable[str], now: float) -> list[str]:
        """Those of `names`, who let a deadline pass, of whom only their own messages said that they are here."""
        return sorted(name for name in names if not self._trainers[name].confirmed and self.leave(name, now))

    def doubt(self, now: float, grace_s: float) -> None:
        """The broker restarted: everybody has `grace_s` to be seen again."""
        self._unconfirmed = set(self.present)
        self._grace_until = now + grace_s

    def settle(self, now: float) -> list[str]:
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

    def unheard(self, now: float, round: int) -> list[str]:
        """Those who are present, have not sent any result yet, and may still be about to in this round or a later."""
        return [
            trainer.name
            for trainer in self._trainers.values()
            if trainer.present
            and not trainer.results
            and now - trainer.met_at < self._forget_s
            and not self.is_barred(trainer.name, round)
        ]

    def restore(self, name: str, samples: int, results: int, now: float) -> None:
        """A trainer that an earlier epoch has met: away, but its rows count until it is forgotten."""
        index = len(self._trainers)
        self._trainers[name] = Trainer(name, index, samples, now, present=False, away_since=now, results=results)
