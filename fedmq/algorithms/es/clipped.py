"""Sums that no single trainer decides: each answer is shortened to the median length before it is added."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fedmq.algorithms.additive import Additive
from fedmq.algorithms.base import Update
from fedmq.algorithms.inbox import ROUNDS_REMEMBERED, Inbox, check_round
from fedmq.models.arrays import Integers

SLOPES = "slopes"


class Clipped(Additive):
    """An additive algorithm whose answers are kept apart until the round closes; see `Additive`.

    The bound on the length of an answer's slopes is the median of the round's answers, as in `averaging`. A late answer
    has the bound of its round. So a trainer that sends garbage counts as much as any other, however large its numbers.
    """

    additive = False
    fields: ClassVar[tuple[tuple[str, Any, Any], ...]] = (
        ("inbox", Inbox, field(default_factory=Inbox)),
        ("bounds", dict[int, float], field(default_factory=dict)),
    )

    def tell(self, state: Any, update: Update) -> Any:
        check_round(update, state.round)
        if state.inbox.knows(update):
            return state
        state.sums[update.round].plus(update)  # raises Rejected
        return replace(state, inbox=state.inbox.add(update))

    def close(self, state: Any, members: Collection[str]) -> Any:
        """Add the shortened answers to the sums of their rounds, then close as usual."""
        updates, sums, bounds = state.inbox.updates(), dict(state.sums), dict(state.bounds)
        for number in sorted({one.round for one in updates}):
            answers = [one for one in updates if one.round == number]
            if number not in bounds:
                lengths = [length for one in answers if (length := _length(one.arrays[SLOPES]))]
                bounds[number] = float(np.median(lengths)) if lengths else 0.0
            for one in answers:
                slopes = _shortened(one.arrays[SLOPES], bounds[number])
                sums[number] = sums[number].plus(replace(one, arrays={**one.arrays, SLOPES: slopes}))
        oldest = state.round + 1 - ROUNDS_REMEMBERED
        return super().close(
            replace(
                state,
                sums=sums,
                inbox=state.inbox.emptied(state.round),
                bounds={number: bound for number, bound in bounds.items() if number > oldest},
            ),
            members,
        )


def _length(slopes: npt.NDArray[Any]) -> float:
    return math.sqrt(sum(int(one) ** 2 for one in slopes.ravel()))


def _shortened(slopes: npt.NDArray[Any], bound: float) -> Integers:
    length, wide = _length(slopes), slopes.astype(np.int64)
    return wide if length <= bound else np.rint(wide * (bound / length)).astype(np.int64)
