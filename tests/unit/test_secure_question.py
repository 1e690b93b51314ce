from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from fedmq.algorithms.averaging.query import Descend
from fedmq.algorithms.base import Query, encode_query
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.errors import Rejected
from fedmq.protocol.codec import pack
from fedmq.protocol.messages import Delta, Round
from fedmq.secure_sums.question import answer_of, flat, length_of, question_of, unflat
from fedmq.tasks.task_file import find_task

LINEAR = find_task("linear")
ARRAYS = {"candidates": np.zeros((3, LINEAR.model.num_parameters))}
ASKED = Round(
    run="r", term=1, round=3, seed=7, deadline_s=10.0, task=LINEAR, query=encode_query(Evaluate())
)  # of arrays without a frame: the digest is in the header


def asked(**changes: Any) -> Round:
    message = msgspec.structs.replace(ASKED, arrays=pack(ARRAYS).infos)
    return msgspec.structs.replace(message, **changes)


def test_same_question_in_another_round_term_or_sum_is_the_same() -> None:
    later = asked(round=9, term=5, seed=1, invited=b"\x03", acknowledged=b"\x01", deadline_s=1.0)
    assert question_of(later) == question_of(asked())
    assert question_of(asked(query=encode_query(Descend()), round=9)) != question_of(
        asked(query=encode_query(Descend()))
    )


def test_other_bytes_of_the_same_query_ask_the_same() -> None:
    fields = msgspec.msgpack.decode(encode_query(Evaluate(fraction_bits=3)))
    turned = msgspec.Raw(msgspec.msgpack.encode(dict(reversed(fields.items()))))
    assert bytes(turned) != bytes(encode_query(Evaluate(fraction_bits=3)))
    assert question_of(asked(query=turned)) == question_of(asked(query=encode_query(Evaluate(fraction_bits=3))))


@pytest.mark.parametrize(
    "other",
    [
        {"run": "s"},
        {"task": msgspec.structs.replace(LINEAR, holdout=0.5)},
        {"query": encode_query(Evaluate(fraction_bits=3))},
        {"arrays": pack({"candidates": np.ones((3, LINEAR.model.num_parameters))}).infos},
    ],
)
def test_question_differs_with_all_that_an_answer_depends_on(other: dict[str, Any]) -> None:
    assert question_of(asked(**other)) != question_of(asked())


def test_round_with_a_delta_asks_the_same_as_the_round_in_full() -> None:
    query = encode_query(Slopes())
    full = asked(query=query)
    digest = bytes(range(32))
    one = msgspec.structs.replace(full, arrays=(), delta=Delta(bytes(32), digest))
    assert question_of(one) == question_of(msgspec.structs.replace(one, round=8, arrays=pack(ARRAYS).infos))
    assert question_of(one) != question_of(full)


def test_vector_of_a_total_is_the_total_of_vectors() -> None:
    bounds = answer_of(Slopes(pairs=4), LINEAR, {"weights": (4, LINEAR.model.num_parameters)})
    draws = np.random.default_rng(0)
    answers = [
        {name: draws.integers(-9, 9, one.shape) for name, one in reversed(list(bounds.items()))} for _ in range(3)
    ]  # the order of a learner's arrays does not matter
    vectors = [flat(bounds, one) for one in answers]
    assert vectors[0].shape == (length_of(bounds),) == (2 * 4 + 2 + 2,)
    total = unflat(bounds, sum(vectors[1:], vectors[0]))
    for name, array in total.items():
        assert np.array_equal(array, sum(one[name] for one in answers[1:]) + answers[0][name])


def test_question_without_sums_has_no_vector() -> None:
    query: Query = Evolve(elites=10)
    with pytest.raises(Rejected) as caught:
        answer_of(query, LINEAR, {})
    assert caught.value.reason == "query"
