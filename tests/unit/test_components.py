"""Principal components by sums: axes from products of columns, networks along them, one model for any split."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from splits import bits, classification, closed, model_sha256, regression, splits, state_after
from table_rows import patients, table_splits, table_task

from fedmq.algorithms.base import Assignment, Total, encode_query
from fedmq.algorithms.es.movement import AdamW
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.statistics.components import Products, principal_axes
from fedmq.algorithms.statistics.learner import PRODUCTS
from fedmq.errors import BadConfiguration, Rejected
from fedmq.exact.draws import normals
from fedmq.exact.eigen import leading_eigenvectors
from fedmq.models.layers import Layered
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.models.standardized import AXIS_BITS, Standard
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Round
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.testing import check_algorithm
from fedmq.trainer.round_handler import on_rows

SIZE, INPUTS, AXES = 200, 6, 2
HIDDEN = normals(SIZE * AXES, 1, "hidden").reshape(SIZE, AXES)
MIXED = HIDDEN @ normals(AXES * INPUTS, 1, "mixing").reshape(AXES, INPUTS)
X = (MIXED + 0.1 * normals(SIZE * INPUTS, 1, "noise").reshape(SIZE, INPUTS)) * 10.0 ** np.arange(INPUTS) + 5.0
CLASSES = Rows(X, (HIDDEN[:, 0] > HIDDEN[:, 1]).astype(float))
VALUES = Rows(X, 40.0 + HIDDEN[:, 0] * 7.0)


@pytest.mark.parametrize(("size", "count"), [(6, 2), (90, 5)])
def test_eigenvectors_are_those_of_lapack(size: int, count: int) -> None:
    rows = normals(400 * size, 1, "rows").reshape(400, size) * 0.9 ** np.arange(size) + normals(400, 2, "all")[:, None]
    matrix = rows.T @ rows
    values, vectors = leading_eigenvectors(matrix, count)
    expected, reference = np.linalg.eigh(matrix)
    np.testing.assert_allclose(values, expected[::-1][:count], rtol=1e-5)
    np.testing.assert_allclose(np.abs(vectors.T @ reference[:, ::-1][:, :count]), np.eye(count), atol=1e-4)
    assert (vectors[np.abs(vectors).argmax(axis=0), np.arange(count)] > 0.0).all()


def test_eigenvectors_beyond_the_rank_are_zero() -> None:
    direction = np.arange(1.0, 5.0)
    values, vectors = leading_eigenvectors(np.outer(direction, direction), 3)
    np.testing.assert_allclose(values, [30.0, 0.0, 0.0], rtol=1e-5)
    np.testing.assert_allclose(vectors[:, 0], direction / np.sqrt(30.0), atol=1e-5)
    assert not vectors[:, 1:].any()
    for size in (3, 30):  # 30: more than the vectors of the iteration
        assert not leading_eigenvectors(np.zeros((size, size)), 2)[1].any()


def test_axes_are_those_of_correlations_without_outliers() -> None:
    task, standard = classification(INPUTS, 2), Standard(X.mean(axis=0), X.std(axis=0))
    work = Assignment(task, {"standard": standard.array}, CLASSES, lambda _: None, np.random.default_rng(1))  # type: ignore[arg-type, return-value]
    sums = PRODUCTS.learn(Products(), work)
    axes = principal_axes(Total(sums, SIZE, 1, 1.0, 0), AXES) * 2.0**-AXIS_BITS
    clipped = np.clip(standard.inputs(X), -2.0, 2.0)
    leading = np.linalg.eigh(clipped.T @ clipped)[1][:, ::-1][:, :AXES]
    lengths = np.sqrt(np.square(axes).sum(axis=0))
    np.testing.assert_allclose(np.abs((axes / lengths).T @ leading), np.eye(AXES), atol=0.01)
    assert np.square(standard.inputs(X) @ axes).mean() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("model", [MLP((INPUTS, 4, 3)), Linear(INPUTS), LogLinear(INPUTS)], ids=str)
def test_network_along_axes_is_a_network_of_all_inputs(model: Layered) -> None:
    axes = np.rint(normals(INPUTS * AXES, 1, "axes").reshape(INPUTS, AXES) * 9000.0).astype(np.int64)
    unit = 1.0 if isinstance(model, MLP) else 3.0
    standard = Standard(X.mean(axis=0), X.std(axis=0), 0.0, unit, axes)
    network = standard.network(model)
    weights = normals(network.num_parameters, 1, "weights") * 0.3
    raw = standard.raw(model, weights)
    inside, outside = network.forward(weights[None], standard.inputs(X))[0], model.forward(raw[None], X)[0]
    np.testing.assert_allclose(outside, inside * standard.unit + standard.center, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(standard.standardized(model, raw), weights, atol=1e-9)


@pytest.mark.parametrize(
    ("algorithm", "parameters", "task", "rows"),
    [
        ("es", {"pairs": 16}, classification(INPUTS, 2, MLP((INPUTS, 4, 2))), CLASSES),
        ("averaging", {"method": "fedsgd"}, regression(INPUTS), VALUES),
    ],
    ids=["es", "fedsgd"],
)
def test_model_along_axes_is_the_same_for_any_split(
    algorithm: str, parameters: dict[str, Any], task: Task, rows: Rows
) -> None:
    strategy = find_algorithm(algorithm, task, {**parameters, "components": AXES})
    found = set()
    for _, shards in splits(rows):
        state = state_after(strategy, task, shards, 6)
        found.add(repr((model_sha256(strategy, task, state), bits(state.known.axes))))
    assert len(found) == 1
    evaluation = strategy.evaluation(state)
    assert evaluation is not None
    assert evaluation.parameters.shape == (task.model.num_parameters,)


def test_axes_of_a_table_are_the_same_for_any_split() -> None:
    task = table_task("ill")
    strategy = find_algorithm("es", task, {"components": 3, "pairs": 8})
    models = {
        model_sha256(strategy, task, state_after(strategy, task, shards, 6))
        for shards in list(table_splits(patients()).values())[:3]
    }
    assert len(models) == 1


def test_training_along_axes_goes_on_from_an_earlier_model() -> None:
    task = classification(INPUTS, 2, MLP((INPUTS, 4, 2)))
    strategy, views = find_algorithm("es", task, {"components": AXES, "pairs": 16}), [RowViews(task, CLASSES)]
    before = strategy.evaluation(state_after(strategy, task, [CLASSES], 30))
    assert before is not None
    assert before.correct > 0.9 * SIZE
    state = strategy.starting_at(strategy.init(task, 2), task.trained(before.parameters))  # type: ignore[attr-defined]
    for _ in range(4):  # the survey, and one round
        state = closed(strategy, state, task, views)
    after = strategy.evaluation(state)
    assert after is not None
    assert after.loss == pytest.approx(before.loss, rel=0.01)


def test_es_along_axes_keeps_the_contract() -> None:
    check_algorithm(find_algorithm("es", None, {"components": 2}), "xor")


@pytest.mark.parametrize(
    ("algorithm", "parameters", "model"),
    [
        ("es", {"components": 7}, MLP((INPUTS, 4, 2))),
        ("averaging", {"components": 7}, MLP((INPUTS, 4, 2))),
        ("averaging", {"components": 2, "rule": "median"}, MLP((INPUTS, 4, 2))),
        ("averaging", {"components": 2, "standardize": False}, MLP((INPUTS, 4, 2))),
        ("es", {"components": 2}, MLP((4096, 2))),
    ],
)
def test_axes_that_no_model_can_have_are_refused(algorithm: str, parameters: dict[str, Any], model: MLP) -> None:
    task = classification(model.inputs, 2, model)
    with pytest.raises(BadConfiguration, match="parameter components: expected"):
        find_algorithm(algorithm, task, parameters).init(task, 1)


def test_questions_with_more_axes_than_inputs_are_refused_by_a_trainer() -> None:
    with pytest.raises(Rejected, match="components"):
        Slopes(components=9).arrays(classification(INPUTS, 2, MLP((INPUTS, 4, 2))))


SLOPES = Slopes(components=2, pairs=20, rows_max=1 << 22, optimizer=AdamW(0.1, 0.0, 0.9))


@pytest.mark.parametrize("query", [Products(), SLOPES])
def test_any_standardization_is_answered_without_a_warning_or_refused(query: Products | Slopes) -> None:
    task = classification(INPUTS, 2, MLP((INPUTS, 4, 2)))
    weights = np.full((1, 22), 1e308)
    movement = {"weights": weights, "moments": weights[:0], "progress": np.ones(3), "axes": np.ones((INPUTS, 2), int)}
    learn, others = on_rows(CLASSES, "site"), movement if isinstance(query, Slopes) else {}

    def answered(shift: float, scale: float) -> Any:
        about = Round(run="run", term=1, round=1, seed=1, deadline_s=1.0, task=task, query=encode_query(query))
        standard = np.array([[shift], [scale]]) + np.zeros(INPUTS + 1)
        return learn(decode(encode("round/run", about, {**others, "standard": standard})), lambda: False)

    for shift, scale in ((1.7e308, 5e-324), (-1.7e308, 1.7e308), (0.0, 5e-324)):
        assert answered(shift, scale).num_examples == SIZE
    for scale in (0.0, -1.0):
        with pytest.raises(Rejected, match="scales above 0"):
            answered(0.0, scale)
