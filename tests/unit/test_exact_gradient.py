"""Gradients of integers: near back-propagation, and the same sum for any split and order of the rows."""

from __future__ import annotations

import numpy as np
import pytest

from fedmq.models.backprop import mean_gradient
from fedmq.models.exact_gradient import WEIGHT_BITS_MIN, exact_gradient, gradient_bits, weight_bits
from fedmq.models.networks import MLP, Linear

MODELS: tuple[MLP | Linear, ...] = (
    MLP((6, 16, 5)),
    MLP((6, 12, 9, 3), hidden="tanh"),
    MLP((6, 8, 2), hidden="sigmoid", bias=False),
    MLP((6, 8, 1), output="identity"),
    Linear(6),
)
ROWS = 300


def case(model: MLP | Linear) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    draws = np.random.default_rng(1)
    targets = draws.integers(0, model.outputs, ROWS) if model.output == "softmax" else draws.normal(size=ROWS)
    return draws.normal(0, 0.4, model.num_parameters), draws.normal(size=(ROWS, 6)), targets


@pytest.mark.parametrize("model", MODELS, ids=str)
def test_sum_is_near_back_propagation(model: MLP | Linear) -> None:
    parameters, inputs, targets = case(model)
    found = exact_gradient(model, parameters, inputs, targets).sums * 2.0 ** -gradient_bits(model) / ROWS
    expected = mean_gradient(model, parameters, inputs, targets)
    assert np.linalg.norm(found - expected) <= 3e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize("scale", [1.0, 40.0])
def test_sum_has_the_same_bits_for_any_split_and_order(model: MLP | Linear, scale: float) -> None:
    parameters, inputs, targets = case(model)
    inputs *= scale
    whole = exact_gradient(model, parameters, inputs, targets).sums
    draws = np.random.default_rng(2)
    for parts in (2, 7, ROWS):
        cuts = np.sort(draws.choice(np.arange(1, ROWS), parts - 1, replace=False))
        places = np.split(draws.permutation(ROWS), cuts)
        total = sum(exact_gradient(model, parameters, inputs[one], targets[one]).sums for one in places)
        np.testing.assert_array_equal(total, whole)


def test_products_stay_exact_for_the_widest_layer_and_the_largest_weights() -> None:
    model = MLP((4096, 2), output="softmax")
    parameters = np.full(model.num_parameters, 1000.0) - np.arange(model.num_parameters) / 7
    inputs, targets = np.full((3, 4096), 127.9), np.array([0, 1, 1])
    outputs = exact_gradient(model, parameters, inputs, targets).outputs
    bits = weight_bits(model, parameters)
    fixed = [int(one) for one in np.rint(parameters * 2.0**bits)]
    for output in range(2):
        exact = sum(fixed[2 * row + output] * int(np.rint(127.9 * 2**14)) for row in range(4096))
        exact += fixed[8192 + output] << 14
        assert outputs[output, 0] == exact / 2 ** (14 + bits)


def test_weights_that_diverged_leave_no_bits() -> None:
    model = MLP((64, 16, 10))
    assert weight_bits(model, np.ones(model.num_parameters)) == 21
    for huge in (1e7, np.inf, np.nan):
        assert weight_bits(model, np.full(model.num_parameters, huge)) < WEIGHT_BITS_MIN
