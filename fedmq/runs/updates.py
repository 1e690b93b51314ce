"""A result from the wire as a strategy receives it; both a live run and its replay use this."""

from __future__ import annotations

from collections.abc import Mapping

from fedmq.algorithms.base import Update
from fedmq.protocol.codec import Array
from fedmq.protocol.fixed_point import dequantize
from fedmq.protocol.messages import Result


def as_update(result: Result, arrays: Mapping[str, Array], counted_in: int, *, additive: bool) -> Update:
    """Return the result, used at the close of round `counted_in`: its losses as float64, or as sent if `additive`.

    Raises:
        Rejected: its losses are not integers.
    """
    return Update(
        result.trainer,
        result.round,
        counted_in - result.round,
        result.num_examples,
        arrays if additive else dequantize(arrays, result.fraction_bits),
        result.fraction_bits,
    )
