"""The question of a secure sum, and its answer as one vector.

The vector has all arrays of an answer in the order of `Query.answer`, flattened: the total of vectors is the vector of
the totals. Its losses are in units of 2**-fraction_bits of the query.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fedmq.algorithms.base import AdditiveQuery, ArrayBounds, Arrays, Query, Shapes, encode_query
from fedmq.algorithms.registry import decode_query
from fedmq.errors import Rejected
from fedmq.protocol.codec import model_digest_of
from fedmq.protocol.messages import Round
from fedmq.secure_sums.masks import digest
from fedmq.tasks.task import Task

Vector = npt.NDArray[np.int64]  # (length,)


def question_of(message: Round) -> bytes:
    """Return the digest of what a round asks, 32 bytes: of the run, the task, the query and its arrays.

    The seed and the number of the round are part of the question only if the answer depends on them. So the same
    question in a later round is the same; in another run it is another one.

    Raises:
        QueryRefused: an unknown kind of query, or a malformed one.
    """
    query, _ = decode_query(message.query)
    draws = (b"%d" % message.seed, b"%d" % message.round) if query.draws else ()
    task = msgspec.msgpack.encode(message.task)
    asked = bytes(encode_query(query))  # its fields may arrive in any order
    return digest(b"question", message.run.encode(), task, asked, model_digest_of(message), *draws)


def answer_of(query: Query, task: Task, shapes: Shapes) -> Mapping[str, ArrayBounds]:
    """Return the bounds of the arrays in an answer to a round with arrays of these shapes, in the order of the vector.

    Raises:
        Rejected: answers to the query are no integers that may be summed, or have no fixed size.
    """
    if not isinstance(query, AdditiveQuery):
        raise Rejected("query", f"expected a question whose answers are sums, got {query.kind}")
    try:
        bounds = query.answer(task, shapes, 1)
    except LookupError as error:
        raise Rejected("shape", f"expected the arrays of {query.kind}, got {sorted(shapes)}") from error
    for name, one in bounds.items():
        if one.dtype is not np.int64 or one.rows_max is not None or min(one.shape, default=0) < 0:
            raise Rejected("shape", f"expected {name} of int64 with a fixed size in an answer to {query.kind}")
    return bounds


def length_of(bounds: Mapping[str, ArrayBounds]) -> int:
    """Return the numbers of an answer with these bounds."""
    return sum(math.prod(one.shape) for one in bounds.values())


def flat(bounds: Mapping[str, ArrayBounds], arrays: Arrays) -> Vector:
    """Return the vector of an answer whose arrays fit the bounds."""
    return np.concatenate([arrays[name].ravel() for name in bounds])


def unflat(bounds: Mapping[str, ArrayBounds], values: Vector) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an answer, or of a total, from its vector."""
    ends = np.cumsum([math.prod(one.shape) for one in bounds.values()])[:-1]
    parts = np.split(values, ends)
    return {name: part.reshape(one.shape) for (name, one), part in zip(bounds.items(), parts, strict=True)}
