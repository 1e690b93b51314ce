"""How virtual trainers behave: how long they work, which of them are slow, fail or come and go. Times are in seconds.

Every draw comes from the run's seed, so that a simulation can be repeated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.arrays import Floats
from fedmq.runtime.rng import derive_rng

FORMS = "SECONDS, uniform:LOW:HIGH, exponential:MEAN or lognormal:MEDIAN:SIGMA"
SECONDS_MAX = 1e9
HANGS_DEADLINES = 2  # a trainer that drops out hangs for so many deadlines; a newer round ends that
_NUMBERS = {"constant": 1, "uniform": 2, "exponential": 1, "lognormal": 2}


@dataclass(frozen=True)
class Distribution:
    """A distribution of times: its kind, and the numbers of `FORMS`."""

    kind: str
    numbers: tuple[float, ...]

    @classmethod
    def parse(cls, text: str | float) -> Distribution:
        """Return the distribution that a text names.

        Raises:
            BadConfiguration: it names none.

        >>> Distribution.parse("uniform:1:3")
        Distribution(kind='uniform', numbers=(1.0, 3.0))
        >>> Distribution.parse("0.5").kind
        'constant'
        """
        kind, _, rest = str(text).partition(":")
        if not rest:
            kind, rest = "constant", kind
        try:
            numbers = tuple(float(one) for one in rest.split(":"))
        except ValueError:
            numbers = ()
        legal = len(numbers) == _NUMBERS.get(kind) and all(0.0 <= one <= SECONDS_MAX for one in numbers)
        if not legal or (kind == "uniform" and numbers[0] > numbers[1]):
            raise BadConfiguration(f"expected {FORMS}, got {str(text)!r:.80}: such as lognormal:2:0.5")
        return cls(kind, numbers)

    @property
    def is_zero(self) -> bool:
        """Whether all times are 0."""
        return self.numbers[self.kind == "uniform"] == 0.0

    def draw(self, generator: np.random.Generator, count: int) -> Floats:
        """Return `count` times (count,) float64."""
        first = self.numbers[0]
        if self.kind == "uniform":
            return generator.uniform(first, self.numbers[1], count)
        if self.kind == "exponential":
            return generator.exponential(first, count)
        if self.kind == "lognormal":
            return first * np.exp(self.numbers[1] * generator.standard_normal(count))
        return np.full(count, first)


@dataclass(frozen=True)
class Behavior:
    """The behavior of all virtual trainers.

    `work_s` is the time from a round to its answer. A share `stragglers` of the trainers, always the same ones, takes
    `slowdown` times as long. In each round a share `dropout` of them, at random, hangs until after the deadline. With
    `online_s` and `offline_s`, each trainer is connected and disconnected in turn for times of these distributions.
    """

    work_s: Distribution = Distribution("constant", (0.01,))
    stragglers: float = 0.0
    slowdown: float = 10.0
    dropout: float = 0.0
    online_s: Distribution | None = None
    offline_s: Distribution = Distribution("constant", (10.0,))

    def __post_init__(self) -> None:
        for name, share in (("stragglers", self.stragglers), ("dropout", self.dropout)):
            if not 0.0 <= share <= 1.0:
                raise BadConfiguration(f"{name}: expected a share from 0 to 1, got {share:g}")
        if not 1.0 <= self.slowdown < math.inf:
            raise BadConfiguration(f"slowdown: expected a factor of at least 1, got {self.slowdown:g}")
        if self.online_s is not None and self.online_s.is_zero:
            raise BadConfiguration("online_s: expected a time above 0, got 0")

    def factors(self, seed: int, count: int) -> Floats:
        """Return how many times as long as usual each of `count` trainers works, (count,) float64."""
        slow = derive_rng(seed, "simulation", "stragglers").permutation(count) < round(self.stragglers * count)
        return np.where(slow, self.slowdown, 1.0)

    def round(self, seed: int, number: int, count: int, deadline_s: float) -> Floats:
        """Return the time that each of `count` trainers works on a round with this deadline, (count,) float64."""
        draws = derive_rng(seed, "simulation", "round", number)
        times = self.work_s.draw(draws, count)
        return times + np.where(draws.random(count) < self.dropout, HANGS_DEADLINES * deadline_s, 0.0)
