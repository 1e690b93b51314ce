"""Questions of private runs: what one row adds to an answer is bounded, and each trainer adds its share of noise."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmq.algorithms.base import SUM_BITS_MAX, AdditiveQuery, Arrays, Shapes
from fedmq.differential_privacy.accounting import RHO_MAX, RHO_MIN
from fedmq.differential_privacy.discrete_gaussian import SCALE_BITS_MAX, Words, discrete_gaussian
from fedmq.errors import Rejected
from fedmq.models.arrays import Integers
from fedmq.tasks.task import TRAINERS_MAX, Task

ROWS_MAX = 1 << 26  # of all trainers
DEVIATION_MIN = 10  # of one trainer's noise, in units: a sum of coarser noise is no discrete Gaussian
DEVIATIONS_MAX = 40  # of the noise that an answer has room for; what is beyond is cut off

Rho = Annotated[float, Meta(ge=RHO_MIN, le=RHO_MAX)]


class Noise(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The noise in the total of one question: with it, the total is rho-zCDP.

    The variance is shared: each trainer adds one part of `trainers`, so a total of so many answers has all of it.
    """

    rho: Rho
    trainers: Annotated[int, Meta(ge=1, le=TRAINERS_MAX)]


class Sensitivity(NamedTuple):
    """What one row adds to an array of an answer at most, in the L2 norm, and the array's share of the question's rho.

    The shares of all arrays add up to 1 at most.
    """

    norm: int
    share: Fraction


class PrivateQuery(AdditiveQuery, frozen=True, kw_only=True):
    """A question that is answered with noise. Its learner bounds each row as `sensitivities` says, in integers."""

    noise: Noise
    question: Annotated[int, Meta(ge=0, le=2**53)] = 0  # its number in the run: no two questions are the same
    rows_max: Annotated[int, Meta(ge=1, le=2**53)] = ROWS_MAX

    @abstractmethod
    def sensitivities(self, task: Task, shapes: Shapes) -> Mapping[str, Sensitivity]:
        """Return the sensitivity of each array of an answer."""
        raise NotImplementedError

    def variances(self, task: Task, shapes: Shapes) -> dict[str, Fraction]:
        """Return the variance of the noise that one trainer adds to each array: norm**2 / (2 rho share trainers)."""
        rho = Fraction(self.noise.rho) * self.noise.trainers
        found = self.sensitivities(task, shapes)
        return {name: Fraction(one.norm**2) / (2 * rho * one.share) for name, one in found.items()}

    def room(self, task: Task, shapes: Shapes) -> dict[str, int]:
        """See `AdditiveQuery`."""
        return {
            name: DEVIATIONS_MAX * (math.isqrt(math.ceil(one)) + 1)
            for name, one in self.variances(task, shapes).items()
        }

    def deviations(self, task: Task, shapes: Shapes, answers: int) -> dict[str, float]:
        """Return the standard deviation of the noise in each array of a total of so many answers."""
        return {name: math.sqrt(one * answers) for name, one in self.variances(task, shapes).items()}

    def check(self, task: Task, shapes: Shapes) -> None:
        """See `Query`: the noise must be one that can be drawn."""
        super().check(task, shapes)
        if sum(one.share for one in self.sensitivities(task, shapes).values()) > 1:
            raise Rejected("values", "expected shares of rho that add up to 1 at most")
        variances = self.variances(task, shapes).values()
        if any(one < DEVIATION_MIN**2 for one in variances):
            raise Rejected(
                "values",
                f"expected noise of each trainer with a deviation of at least {DEVIATION_MIN} units, got less: lower "
                "epsilon, or the number of trainers that share it",
            )
        if any(one >= 1 << 2 * SCALE_BITS_MAX for one in variances):
            raise Rejected(
                "values",
                f"expected noise with a deviation below 2**{SCALE_BITS_MAX} units, got more: raise epsilon",
            )


def with_noise(
    query: PrivateQuery, task: Task, shapes: Shapes, answer: Arrays, num_examples: int, words: Words
) -> dict[str, Integers]:
    """Return an answer with this trainer's noise, within the bounds of an answer of `num_examples` rows."""
    variances, room = query.variances(task, shapes), query.room(task, shapes)
    found = {}
    for name, bounds in query.answer(task, shapes, num_examples).items():
        clean: npt.NDArray[Any] = answer[name]
        noise = discrete_gaussian(variances[name], clean.size, words).reshape(clean.shape)
        lowest, highest = int(bounds.smallest) - room[name], int(bounds.largest) + room[name]
        found[name] = np.clip(clean + noise, lowest, highest).astype(np.int64)
    return found


def bits_of(largest: int) -> int:
    """Return the bits of a row's numbers that are at most so large."""
    return min(SUM_BITS_MAX, largest.bit_length())
