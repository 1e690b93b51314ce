"""The roster: the trainers of a run, in one term.

A trainer is *present* while its inbox is subscribed at the broker. One that has only sent messages is present until it
misses a deadline: the broker's notice may be lost. It is a *member*, and its rows count, from its first result until it
says goodbye or has been absent for `forget_s`. A control command can *bar* a name from a round on: it is *eligible* for
none of these rounds, and its rows do not count in them.

A run may *select* trainers by their labels. One that lacks a label is on the roster, but barred from every round.

A missed round, a closed one without a trainer's result, takes RESULTS_PER_MISS of its *credit*; an accepted result
gives one back. A present trainer without credit for one more miss, at first after SILENT_ROUNDS of them, is *silent*:
no round waits for it, and its rows do not count. One accepted result ends that, and the next missed round makes it
silent again. A silent trainer that works at full speed again may be slower than rounds that do not wait for it, and
each new round cancels its work. So a round waits for it again after 16, 64, ... missed ones.

A trainer that is silent repeatedly has a *probation* of 16, 64, ... rounds: they do not wait for it even if it answers.
So a trainer that answers now and then delays few rounds: their number grows with the logarithm of all.

A name is *contested* while the broker reports several connections for it. It is invited to no round then, because
nothing shows whose rows a result is about. An old connection ends within `CONTEST_S`; after it the name is a
*duplicate*: several trainers use it. The broker repeats its report of several connections, and the next one after it.
So a new broker that reports no second connection during the grace has none.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from fedmq.aggregator.departures import DECLINES, Departure
from fedmq.errors import Rejected
from fedmq.tasks.task import TRAINERS_MAX

SILENT_ROUNDS = 3  # missed in a row; more if results may be later than that
RESULTS_PER_MISS = 100
FORGIVEN_RESULTS = 1_000  # between two times that it becomes silent; after so many the next is the first again
LAPSES_MAX = 15  # for the length of a probation
WAITED_FOR_AGAIN = frozenset(4**power for power in range(2, 16))  # missed rounds of a silent trainer
CONTEST_S = 10.0  # a broker notices the end of a connection within 9 s
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
    credit: int  # in results
    present: bool = True
    confirmed: bool = False  # by the broker: a trainer's own messages may arrive after its end
    gone: bool = False  # said goodbye
    departure: Departure | None = None  # its Goodbye in this term, or its refused result of the open round
    departed_at: float = 0.0  # only with a departure
    absent_since: float = 0.0  # only while not present
    missed: int = 0  # closed rounds without its result since its credit was full, of those that began with it present
    lapses: int = 0  # times that it became silent,
    lapsed_after: int = 0  # and its results until then
    probation: int = 0  # rounds to come that do not wait for it
    results: int = 0
    late: int = 0
    rejected: int = 0
    resent: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)  # of its own code, with its last result
    introduction: Introduction = NO_INTRODUCTION
    hello_from: float = 0.0  # its next hello is accepted then

    @property
    def is_silent(self) -> bool:
        """Whether it has missed so many rounds that its rows do not count."""
        return self.credit < RESULTS_PER_MISS

    @property
    def is_awaited(self) -> bool:
        """Whether a round waits for it: it is neither silent nor on probation."""
        return not self.probation and (not self.is_silent or self.missed in WAITED_FOR_AGAIN)


class Roster:
    """The trainers of this term, in the order of their first message."""

    def __init__(self, forget_s: float, staleness: int = 0, select: Collection[str] = ()) -> None:
        self._forget_s, self._select = forget_s, frozenset(select)
        self._full_credit = max(SILENT_ROUNDS, staleness + 1) * RESULTS_PER_MISS
        self._trainers: dict[str, RosterEntry] = {}
        self._unconfirmed: set[str] = set()
        self.grace_until: float | None = None  # after a broker restart
        self._barred: dict[str, int] = {}  # the first barred round, by name
        self._contested: dict[str, float] = {}  # since when, by name,
        self._first_contested: dict[str, float] = {}  # and for the first time, also of names that are settled
        self._duplicates: set[str] = set()  # contested names that have been reported,
        self._unconfirmed_duplicates: set[str] = set()  # and those of a broker that is down

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

    def bitmap(self, names: Iterable[str]) -> bytes:
        """Return a bit for each trainer, by its index: 1 for these names, of those on the roster."""
        bitmap = bytearray(-(-len(self._trainers) // 8))
        for name in names:
            if (trainer := self._trainers.get(name)) is not None:
                bitmap[trainer.index // 8] |= 1 << trainer.index % 8
        return bytes(bitmap)

    def eligible(self, round: int) -> list[str]:
        """Return the present trainers that are neither barred from this round nor contested."""
        present = self.present
        if not self._barred and not self._contested and not self._select:
            return present
        return [name for name in present if not self.is_barred(name, round) and name not in self._contested]

    def awaited(self, eligible: Iterable[str]) -> set[str]:
        """Return the trainers that a round waits for: all but silent ones and those on probation, or all if none is."""
        return {name for name in eligible if self._trainers[name].is_awaited} or set(eligible)

    def miss(self, names: Iterable[str]) -> list[str]:
        """Count a missed round of these trainers; return those that are silent from now on."""
        newly = []
        for name in sorted(names):
            trainer = self._trainers[name]
            was_silent, on_probation = trainer.is_silent, trainer.probation > 0
            trainer.missed += 1
            trainer.credit = max(0, trainer.credit - RESULTS_PER_MISS)
            trainer.probation = max(0, trainer.probation - 1)
            if trainer.is_silent and not was_silent:
                newly.append(name)
                if not on_probation:
                    _lapse(trainer)
        return newly

    def is_barred(self, name: str, round: int) -> bool:
        """Return whether `name` is barred from this round, or not selected."""
        return (name in self._barred and round >= self._barred[name]) or not self.is_selected(name)

    def is_selected(self, name: str) -> bool:
        """Return whether `name` has all labels that the run selects; True while its labels are unknown."""
        if not self._select or name not in self._trainers:
            return True
        introduction = self._trainers[name].introduction
        return introduction is NO_INTRODUCTION or self._select.issubset(introduction.labels)

    def check_selected(self, name: str) -> None:
        """Check that `name` has all labels that the run selects.

        Raises:
            Rejected: it has not.
        """
        if not self.is_selected(name):
            labels = ",".join(self._trainers[name].introduction.labels) or "none"
            raise Rejected("uninvited", f"expected the labels {','.join(sorted(self._select))}, got {labels}")

    def check_barred(self, name: str, round: int) -> None:
        """Check that `name` is not barred from this round.

        Raises:
            Rejected: it is.
        """
        self.check_selected(name)
        if self.is_barred(name, round):
            since = self._barred[name]
            raise Rejected("barred", f"drained before round {since}" if since else "banned")

    def bar(self, name: str, first: int) -> bool:
        """Bar `name` from round `first` on; False if it is already."""
        if (name in self._barred and first >= self._barred[name]) or len(self._barred) >= TRAINERS_MAX:
            return False
        self._barred[name] = first
        return True

    def readmit(self, name: str) -> bool:
        """Lift a bar; False if there is none."""
        return self._barred.pop(name, None) is not None

    def contest(self, name: str, now: float) -> None:
        """Register that several connections use `name`."""
        if name not in self._contested and len(self._first_contested) < TRAINERS_MAX:
            self._contested[name] = now
            self._first_contested.setdefault(name, now)
        self._unconfirmed_duplicates.discard(name)

    def settle(self, name: str) -> bool:
        """Register that at most one connection uses `name`; return whether it was a duplicate."""
        self._contested.pop(name, None)
        was = name in self._duplicates
        self._duplicates.discard(name)
        self._unconfirmed_duplicates.discard(name)
        return was

    def is_contested(self, name: str) -> bool:
        return name in self._contested

    def is_duplicate(self, name: str) -> bool:
        return name in self._duplicates

    @property
    def contest_until(self) -> float | None:
        """Time at which a contested name becomes a duplicate, or None."""
        if not self._contested:
            return None
        times = (since + CONTEST_S for name, since in self._contested.items() if name not in self._duplicates)
        return min(times, default=None)

    def new_duplicates(self, now: float) -> list[str]:
        """Return the names that have become duplicates since the last call."""
        if not self._contested:
            return []
        found = [
            name for name, since in self._contested.items() if name not in self._duplicates and now >= since + CONTEST_S
        ]
        self._duplicates.update(found)
        return found

    def drop_contests(self) -> None:
        """Forget contests that are not reported yet, and doubt the others: the broker that has seen them is down."""
        self._contested = {name: since for name, since in self._contested.items() if name in self._duplicates}
        self._unconfirmed_duplicates = set(self._duplicates)

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
            trainer = self._trainers[name] = RosterEntry(
                name, len(self._trainers), num_examples, now, self._full_credit
            )
        if not trainer.present:
            trainer.departure = None
        trainer.num_examples, trainer.present, trainer.gone = num_examples, True, False
        trainer.confirmed = trainer.confirmed or confirmed
        self._unconfirmed.discard(name)
        if introduction is not None:
            new = new or introduction != trainer.introduction
            trainer.introduction, trainer.hello_from = introduction, now + HELLO_S
        return new

    def count(self, name: str, num_examples: int, *, staleness: int, again: bool) -> None:
        """Count an accepted result: the trainer is not silent any more; its missed rounds are forgotten at full credit.

        A result that is `staleness` rounds late takes back so many missed rounds.
        """
        trainer = self._trainers[name]
        trainer.num_examples, trainer.departure = num_examples, None
        gained = RESULTS_PER_MISS if trainer.is_silent else trainer.credit + 1
        trainer.credit = min(self._full_credit, gained + staleness * RESULTS_PER_MISS)
        trainer.missed = 0 if trainer.credit == self._full_credit else max(0, trainer.missed - staleness)
        trainer.probation = max(0, trainer.probation - 1)
        trainer.results += 1
        trainer.late += staleness > 0
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

    def depart(self, name: str, departure: Departure, now: float) -> bool:
        """Mark a trainer as gone for good, also an unknown one; return whether that is new.

        Another reason of a trainer that has departed already is kept, but is not new and postpones nothing.
        """
        if name not in self._trainers:
            if len(self._trainers) >= TRAINERS_MAX:
                return False
            self.restore(name, 0, 0, now, gone=True)
        was = self.leave(name, now, for_good=True)
        trainer = self._trainers[name]
        is_new = was or trainer.departure is None
        trainer.departure = departure
        if is_new:
            trainer.departed_at = now
        return is_new

    def refuse(self, name: str, departure: Departure, now: float) -> None:
        """Note that a trainer's result of the open round will never be used."""
        if name in self and self._trainers[name].departure is None:
            self._trainers[name].departure, self._trainers[name].departed_at = departure, now

    def is_expected(self, name: str) -> bool:
        """Return whether a round that waits for this trainer may still get its result."""
        return name in self and self._trainers[name].present and self._trainers[name].departure is None

    def forgive(self) -> None:
        """Forget the refused results: a round opens."""
        for trainer in self._trainers.values():
            if trainer.present:
                trainer.departure = None

    def departures(self, round: int) -> list[Departure]:
        """Return why trainers contribute nothing, of those that are not barred from this round, by name."""
        trainers = sorted(self._trainers.values(), key=lambda trainer: trainer.name)
        return [one.departure for one in trainers if one.departure and not self.is_barred(one.name, round)]

    def declined(self, round: int) -> dict[str, Departure]:
        """Return the trainers that have declined the run, with their reasons, of those not barred from this round."""
        return {
            one.name: one.departure
            for one in self._trainers.values()
            if one.departure and one.departure.reason in DECLINES and not self.is_barred(one.name, round)
        }

    def deserted_at(self, round: int, since: float, decline_s: float, leave_s: float) -> float | None:
        """Return when no trainer is expected to contribute any more; None: one is, or none has left.

        A trainer that has declined the run, or whose result of the open round is refused, may be replaced for
        `decline_s`. One that has left or disconnected may be restarting: it may return for `leave_s`. No time counts
        before `since`.
        """
        ends, departed = [], False
        for trainer in self._trainers.values():
            if self.is_barred(trainer.name, round):
                continue
            departed = departed or trainer.departure is not None
            if trainer.departure is not None and trainer.departure.reason in DECLINES:
                ends.append(max(since, trainer.departed_at) + decline_s)
            elif trainer.present:
                return None
            else:
                ends.append(max(since, trainer.absent_since) + leave_s)
        return max(ends) if departed else None

    def time_out(self, names: Iterable[str], now: float) -> list[str]:
        """Mark those trainers that missed a deadline as absent that the broker has not confirmed; return them."""
        return sorted(name for name in names if not self._trainers[name].confirmed and self.leave(name, now))

    def mark_unconfirmed(self) -> None:
        """Require all present trainers to be seen again: the broker is down."""
        self._unconfirmed = set(self.present)

    def begin_grace(self, now: float, grace_s: float) -> None:
        """Give unconfirmed trainers and duplicates `grace_s` to be seen again: the broker is up."""
        self.grace_until = now + grace_s if self._unconfirmed or self._unconfirmed_duplicates else None

    def expire(self, now: float) -> list[str]:
        """At the end of the grace, mark the trainers as absent that were not seen again; return them."""
        if not self._is_grace_over(now):
            return []
        self.grace_until = None
        lost = sorted(name for name in self._unconfirmed if self.leave(name, now))
        self._unconfirmed = set()
        return lost

    def end_duplicates(self, now: float) -> list[str]:
        """At the end of the grace, settle the duplicates that were not reported again; return them. Before `expire`."""
        ended = sorted(self._unconfirmed_duplicates) if self._is_grace_over(now) else []
        for name in ended:
            self.settle(name)
        return ended

    def _is_grace_over(self, now: float) -> bool:
        return self.grace_until is not None and now >= self.grace_until

    def members(self, now: float, round: int) -> list[str]:
        """Return the trainers whose rows count in this round, sorted."""
        some_barred = bool(self._barred or self._select)
        return sorted(
            trainer.name
            for trainer in self._trainers.values()
            if trainer.results
            and not trainer.gone
            and not trainer.is_silent
            and (trainer.present or now - trainer.absent_since < self._forget_s)
            and not (some_barred and self.is_barred(trainer.name, round))
            and now - self._contested.get(trainer.name, now) < self._forget_s
        )

    def pending(self, now: float, round: int) -> list[str]:
        """Return the present trainers whose first result may still arrive, and names that were contested just now."""
        waiting = {
            trainer.name: trainer.joined_at
            for trainer in self._trainers.values()
            if trainer.present and not trainer.results
        }
        waiting |= {name: self._first_contested[name] for name in self._contested}
        return [
            name for name, since in waiting.items() if now - since < self._forget_s and not self.is_barred(name, round)
        ]

    def restore(self, name: str, num_examples: int, results: int, now: float, *, gone: bool = False) -> None:
        """Add a trainer of an earlier term as absent. Its rows count until it is forgotten, unless it is `gone`."""
        index = len(self._trainers)
        self._trainers[name] = RosterEntry(
            name,
            index,
            num_examples,
            now,
            self._full_credit,
            present=False,
            absent_since=now,
            results=results,
            gone=gone,
        )


def _lapse(trainer: RosterEntry) -> None:
    """Note that a trainer became silent; from the second time on it is on probation."""
    if trainer.results - trainer.lapsed_after >= FORGIVEN_RESULTS:
        trainer.lapses = 0
    trainer.lapses, trainer.lapsed_after = min(LAPSES_MAX, trainer.lapses + 1), trainer.results
    trainer.probation = 4**trainer.lapses if trainer.lapses > 1 else 0
