"""A trainer's control variates: the sums of its own answers `control` over the rounds of a run.

An answer counts once the aggregator has acknowledged it, and until then as long as it is pending. So a refused answer
counts nowhere, one that is sent again counts once, and the sums of all trainers add up to what the aggregator has
summed. Integers, so no order of acknowledgements changes a bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from fedmq.protocol.codec import Array

OWN_CONTROL = "own control"  # beside the arrays of a round on their way to the worker; no name for the network
ROUNDS_KEPT = 16  # acknowledged rounds that are known as such


class ControlSum(NamedTuple):
    """The sum over the acknowledged rounds of a run; without rounds, there is none."""

    run: str
    total: Array | None = None  # (parameters,) int64
    rounds: Mapping[int, bytes] = {}  # the newest acknowledged ones, with the digests of their models

    def plus(self, round: int, model_digest: bytes, control: Array) -> ControlSum:
        """Return the sum with the answer to one more acknowledged round; the same if it is in the sum."""
        if round in self.rounds:
            return self
        rounds = dict(sorted({**self.rounds, round: model_digest}.items())[-ROUNDS_KEPT:])
        return ControlSum(self.run, control if self.total is None else self.total + control, rounds)

    def is_of_earlier_run(self, round: int, model_digest: bytes) -> bool:
        """Return whether this round is one of another run of the same name, which began after this sum."""
        newest = max(self.rounds, default=0)
        return round < newest or (round == newest and self.rounds.get(round) != model_digest)

    def with_pending(self, pending: Iterable[tuple[int, Array]], shape: tuple[int, ...]) -> Array | None:
        """Return the sum with the answers that are not acknowledged yet; None if there are none of this shape."""
        parts = [control for round, control in pending if round not in self.rounds]
        parts += [] if self.total is None else [self.total]
        parts = [one for one in parts if one.shape == shape]
        if not parts:
            return None
        total = np.zeros(shape, np.int64)
        for one in parts:
            total += one
        return total
