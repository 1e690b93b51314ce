"""The conditions under which a trainer takes part in a secure sum.

Of n members, f may be in league with the aggregator, and t must survive. Theorem 6.5 of Bonawitz et al. (2017) needs

    2t > n + f      two lists of survivors would need t - f honest signatures each, of n - f honest members
    t >= f + 2      ours: each total adds the answers of two honest members at least
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedmq.errors import PolicyRefused

if TYPE_CHECKING:
    from fedmq.secure_sums.messages import Cohort  # a plain run needs no cryptography


def default_threshold(members: int) -> int:
    """Return t = n - floor(n / 3): a third of the members may drop out."""
    return members - members // 3


def colluders_max(members: int, threshold: int) -> int:
    """Return the largest f that the threshold permits; below 0 if it permits none."""
    return min(2 * threshold - members - 1, threshold - 2)


@dataclass(frozen=True)
class SumPolicy:
    """What a site demands.

    `colluders` is the f that a cohort has to withstand; None: that of the default threshold. `peers` are the
    fingerprints of the members that the site knows, its own among them; None: it accepts those that the aggregator
    names.
    """

    members_min: int = 3
    colluders: int | None = None
    peers: frozenset[str] | None = None

    def check(self, cohort: Cohort) -> None:
        """Check the size, the threshold and the members of a cohort.

        Raises:
            PolicyRefused: the site does not take part in a sum of this cohort.
        """
        members, threshold = len(cohort.members), cohort.threshold
        if members < self.members_min:
            raise PolicyRefused(
                f"secure sum: expected at least {self.members_min} members, got {members}: add trainers, or "
                "lower --min-members"
            )
        colluders = self._colluders(members)
        if threshold > members or colluders_max(members, threshold) < colluders:
            raise PolicyRefused(
                f"secure sum: expected a threshold that withstands {colluders} colluders of {members} members, "
                f"got {threshold}"
            )
        for one in cohort.members:
            if self.peers is not None and one.identity.fingerprint not in self.peers:
                raise PolicyRefused(
                    f"secure sum: expected members with pinned keys, got {one.identity.name} with key "
                    f"{one.identity.fingerprint}: add it to --peers, if that site confirms it"
                )

    def honest_min(self, cohort: Cohort) -> int:
        """Return how many honest members a total of the cohort has at least: t - f."""
        return cohort.threshold - self._colluders(len(cohort.members))

    def _colluders(self, members: int) -> int:
        if self.colluders is not None:
            return self.colluders
        return max(0, colluders_max(members, default_threshold(members)))  # no total of one member
