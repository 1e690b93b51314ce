"""The epsilon that private answers of a site have spent over all runs, and the most that the site allows.

The trainer counts what it was asked: each answer with noise costs its rho, whatever the aggregator says about a run.
The sum is saved before an answer with new noise leaves, in a file beside the pending results.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from fedmq.algorithms.base import Query
from fedmq.algorithms.private.query import PrivateQuery
from fedmq.differential_privacy.accounting import epsilon_of
from fedmq.errors import BadConfiguration, PolicyRefused, one_line
from fedmq.runtime.atomic_files import write_whole, writing
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.safe_files import read_regular

BYTES_MAX = 4096
SPENT_FILE = "epsilon.json"


class EpsilonSpent(msgspec.Struct, frozen=True):
    """The file: the rho of all private answers so far."""

    rho: Annotated[float, Meta(ge=0.0)] = 0.0
    answers: Annotated[int, Meta(ge=0)] = 0


class Spending(Protocol):
    """What decides whether a question is answered, and counts what an answer costs."""

    def check(self, query: Query) -> None:
        """Raise PolicyRefused if the question must not be answered."""

    def spend(self, rho: float) -> None:
        """Count one answer, durably."""


class Unlimited:
    """Answers everything and counts nothing."""

    def check(self, query: Query) -> None:
        pass

    def spend(self, rho: float) -> None:
        pass


UNLIMITED = Unlimited()


class EpsilonBudget:
    """The budget of one trainer: `epsilon_max` for `delta`, over all runs; `path` is the file of what is spent.

    Raises:
        BadConfiguration: the file cannot be read, or is none of this kind.
    """

    def __init__(self, epsilon_max: float, delta: float, path: Path) -> None:
        self.epsilon_max, self.delta, self._path = epsilon_max, delta, path
        self._lock = threading.Lock()
        self.spent = _read(path)

    @property
    def epsilon(self) -> float:
        """The epsilon that all answers so far have spent."""
        return epsilon_of(self.spent.rho, self.delta)

    def check(self, query: Query) -> None:
        """Check a question before any work.

        Raises:
            PolicyRefused: it has no noise, or would cost more than is left.
        """
        if not isinstance(query, PrivateQuery):
            raise PolicyRefused(
                f"--epsilon-max {self.epsilon_max:g}: expected a question of a private run, got one without noise: "
                "begin the run with --epsilon"
            )
        after = epsilon_of(self.spent.rho + query.noise.rho, self.delta)
        if after > self.epsilon_max:
            raise PolicyRefused(
                f"--epsilon-max {self.epsilon_max:g}: {self.epsilon:.3g} are spent in {self.spent.answers} answers, "
                f"and this question would make it {after:.3g}"
            )

    def spend(self, rho: float) -> None:
        """Count one answer; it is on disk when this returns."""
        with self._lock:
            self.spent = EpsilonSpent(self.spent.rho + rho, self.spent.answers + 1)
            with writing(f"{self._path}"):
                write_whole(self._path, msgspec.json.encode(self.spent))


def _read(path: Path) -> EpsilonSpent:
    try:
        return msgspec.json.decode(read_regular(path, BYTES_MAX), type=EpsilonSpent)
    except FileNotFoundError:
        return EpsilonSpent()
    except (OSError, *MALFORMED) as error:
        raise BadConfiguration(
            f"{path}: expected what private answers have spent, got {one_line(error)}: put a copy back, or move it "
            "away to begin anew"
        ) from error
