"""Which trainers a round invites: a sample of the present ones, in turns. No I/O.

The turns go in cycles. In each cycle every present trainer has one turn, in an order drawn from the run's seed, so that
the numbers of invitations of two trainers that are always present differ by one at most. A trainer that is absent loses
its turns. The draw depends on the seed, the round, the last invitation and the present trainers, on nothing else.
"""

from collections.abc import Collection, Iterable

from fedmq.runs.records import Invitation
from fedmq.runtime.rng import derive_rng


def sample_size(sample: float, present: int) -> int:
    """Return how many of the `present` trainers a round invites: a share if `sample` is below 1, else a number."""
    return max(1, round(sample * present)) if sample < 1 else int(sample)


def invite(
    last: Invitation | None,
    seed: int,
    number: int,
    candidates: Collection[str],
    count: int,
    silent: Collection[str] = (),
) -> Invitation:
    """Return who is invited to round `number`: `count` of the candidates, or all if there are fewer.

    If `last` is of this round, they are invited in addition. Silent candidates have their turns, but do not count.
    """
    invited = frozenset(last.trainers if last is not None and last.round == number else ())
    served = frozenset(() if last is None else last.served)
    free = sorted(set(candidates) - invited)
    order = derive_rng(seed, "invitations", number, len(invited)).permutation(len(free))
    shuffled = [free[place] for place in order]
    waiting = [name for name in shuffled if name not in served]
    turns = [*waiting, *(name for name in shuffled if name in served)]
    drawn: list[str] = []
    for name in turns:
        if count <= 0:
            break
        drawn.append(name)
        count -= name not in silent
    next_cycle = drawn[len(waiting) :]
    return Invitation(
        round=number,
        trainers=tuple(sorted(invited.union(drawn))),
        served=tuple(sorted(next_cycle or served.union(drawn))),
    )


class Invitations:
    """The invitations to the sampled rounds of a run whose results may still arrive."""

    def __init__(self, seed: int, kept: Iterable[Invitation] = ()) -> None:
        self._seed = seed
        self._last: Invitation | None = None  # decides whose turn is next
        self._trainers: dict[int, frozenset[str]] = {}
        for one in kept:
            self._last, self._trainers[one.round] = one, frozenset(one.trainers)

    def of(self, number: int) -> frozenset[str] | None:
        """Return the trainers that round `number` invites; None: all."""
        return self._trainers.get(number)

    def draw(self, number: int, candidates: Collection[str], count: int, silent: Collection[str] = ()) -> Invitation:
        """Invite trainers to round `number`, in addition to those that it invites already; see `invite`."""
        drawn = self._last = invite(self._last, self._seed, number, candidates, count, silent)
        self._trainers[number] = frozenset(drawn.trainers)
        return drawn

    def forget_before(self, oldest: int) -> None:
        """Forget the invitations to earlier rounds: their results are too late."""
        self._trainers = {number: names for number, names in self._trainers.items() if number >= oldest}
