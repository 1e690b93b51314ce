"""Back-propagation against finite differences, and the first parameters."""

from __future__ import annotations

import numpy as np
import pytest

from fedmq.errors import BadConfiguration
from fedmq.models.backprop import mean_gradient
from fedmq.models.fourier import Fourier
from fedmq.models.layers import Layered, initial_parameters, layered
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.tasks.task import Rows, Task

MODELS: tuple[Layered, ...] = (
    MLP((3, 5, 4)),
    MLP((3, 5, 4, 2), hidden="tanh"),
    MLP((3, 4, 3), hidden="sigmoid", bias=False),
    MLP((3, 2)),
    MLP((3, 5, 1), output="identity"),
    MLP((3, 5, 5, 1), hidden="tanh", output="identity"),
    Linear(3),
    LogLinear(3),
)


def task_of(model: Layered) -> Task:
    loss = "cross-entropy" if model.output == "softmax" else "squared-error"
    return Task(name="t", model=model, loss=loss, metric="loss")  # type: ignore[arg-type]


def rows_of(model: Layered, count: int = 7) -> Rows:
    draws = np.random.default_rng(1)
    classes = model.output == "softmax"
    targets = draws.integers(0, model.outputs, count) if classes else draws.normal(size=count)
    return task_of(model).fit(Rows(draws.normal(size=(count, 3)), targets))


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_gradient_equals_finite_differences(model: Layered) -> None:
    task, rows = task_of(model), rows_of(model)
    parameters = np.random.default_rng(2).normal(0, 0.7, model.num_parameters)
    step = 1e-6
    shifted = np.concatenate([parameters + step * np.eye(len(parameters)), parameters - step * np.eye(len(parameters))])
    above, below = np.split(task.score(shifted, rows).losses, 2)
    expected = (above - below) / (2 * step) / len(rows.inputs)
    found = mean_gradient(model, parameters, rows.inputs, rows.targets)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_gradient_of_a_batch_is_the_mean_over_its_rows() -> None:
    model = MODELS[0]
    rows, parameters = rows_of(model), np.random.default_rng(2).normal(size=model.num_parameters)
    each = [mean_gradient(model, parameters, rows.inputs[[row]], rows.targets[[row]]) for row in range(7)]
    whole = mean_gradient(model, parameters, rows.inputs, rows.targets)
    np.testing.assert_allclose(whole, np.mean(each, axis=0), atol=1e-12)


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_overflow_gives_no_warning(model: Layered) -> None:
    rows = rows_of(model)
    assert mean_gradient(model, np.full(model.num_parameters, 1e300), rows.inputs, rows.targets).shape


def test_first_weights_have_the_spread_of_their_layer_and_no_biases() -> None:
    parameters = initial_parameters(MLP((400, 100, 10)), 1, "x")
    first, last = parameters[: 400 * 100], parameters[400 * 100 + 100 :][:1000]
    assert first.std() == pytest.approx(np.sqrt(2 / 400), rel=0.02)
    assert last.std() == pytest.approx(np.sqrt(1 / 100), rel=0.1)
    assert not parameters[40_000:40_100].any()
    assert not initial_parameters(Linear(4), 1).any()
    assert (initial_parameters(MLP((4, 3, 2)), 1) != initial_parameters(MLP((4, 3, 2)), 2)).any()


def test_other_models_are_refused_by_name() -> None:
    with pytest.raises(BadConfiguration, match="averaging: expected a model MLP, Linear or LogLinear, got Fourier"):
        layered(Fourier(3, 1, 8), "averaging")
