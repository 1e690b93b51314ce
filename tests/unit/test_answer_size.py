"""The size of an answer: it follows from the query, and a larger one is neither given to the strategy nor stored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from rounds_scene import TASK, kept, opened, sent

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import ArrayBounds, Query, Shapes, answer_bytes_max, check_down
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.evolution.query import Evolve
from fedmq.errors import Rejected
from fedmq.protocol.codec import FRAME_BYTES_MAX
from fedmq.protocol.messages import Refused
from fedmq.tasks.task import Task

PARAMETERS = TASK.model.num_parameters


@pytest.mark.parametrize(
    ("query", "shapes", "numbers"),
    [
        (Train(GradientLearner()), {"model": (PARAMETERS,)}, PARAMETERS + 2),
        (Evaluate(), {"candidates": (7, PARAMETERS)}, 14),
        (Evolve(elites=2, proposals=3), {"ids": (7,), "pool": (7, PARAMETERS)}, 14 + 3 * PARAMETERS),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Query) else "",
)
def test_answer_has_no_more_bytes_than_its_query_needs(query: Query, shapes: Shapes, numbers: int) -> None:
    assert answer_bytes_max(query, TASK, shapes) == 8 * numbers


def test_larger_answer_is_refused_before_a_strategy_that_checks_nothing() -> None:
    scene = opened("bob", "alice")
    output = scene.hear(scene.result_of("bob", 1), *[1.0] * (PARAMETERS + 3))
    most, size = 8 * (PARAMETERS + 2), 8 * (PARAMETERS + 3)
    ((_, refused),) = sent(output, Refused)
    assert (refused.reason, refused.detail) == ("nbytes", f"expected an answer of at most {most} bytes, got {size}")
    assert output.records == []
    assert kept(scene.result("bob", 1)) == [(1, "bob", 1)], "a good one may still come"


class Free(Evaluate, frozen=True, tag="free-answer"):
    """Allows answers of any length."""

    length: int = -1

    def answer(self, task: Task, shapes: Shapes, num_examples: int) -> Mapping[str, ArrayBounds]:
        return {"losses": ArrayBounds((self.length,), np.int64)}


@pytest.mark.parametrize(("length", "reason"), [(-1, "shape"), (FRAME_BYTES_MAX // 8 + 1, "nbytes")])
def test_query_without_a_size_of_its_answer_is_refused_on_both_sides(length: int, reason: str) -> None:
    with pytest.raises(Rejected) as refusal:
        check_down(Free(length=length), TASK, {"candidates": np.zeros((1, PARAMETERS))})
    assert refusal.value.reason == reason
