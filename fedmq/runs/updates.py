"""A result as it came over the wire, made what a strategy takes: the one place where its numbers are read.

Knows nothing of rounds, stores or strategies' rules; a live run and a replay of it both pass here.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedmq.algorithms.base import Update
from fedmq.protocol.codec import Array
from fedmq.protocol.fixed_point import dequantize
from fedmq.protocol.messages import Result


def as_update(result: Result, arrays: Mapping[str, Array], counted_in: int) -> Update:
    """The result with its losses as float64; it is used at the close of round `counted_in`.

    Raises:
        Rejected: its losses are no integers.
    """
    staleness = counted_in - result.round
    return Update(
        result.trainer, result.round, staleness, result.num_examples, dequantize(arrays, result.fraction_bits)
    )
