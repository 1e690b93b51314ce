"""The decision surface: each cell has the right value."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from fedmq.dashboard.surface import SIZE, surface_of
from fedmq.errors import BadConfiguration
from fedmq.models.networks import MLP, Code, Linear
from fedmq.models.trained_model import TrainedModel
from fedmq.tasks.task_file import find_task

XOR = find_task("xor").model
PARAMETERS = np.random.default_rng(1).normal(size=XOR.num_parameters)


def center(drawn: dict[str, list[float]], column: int, row: int) -> list[float]:
    return [
        drawn[axis][0] + (place + 0.5) / SIZE * (drawn[axis][1] - drawn[axis][0])
        for axis, place in (("x", column), ("y", row))
    ]


@pytest.mark.parametrize(("column", "row"), [(0, 0), (SIZE - 1, 0), (0, SIZE - 1), (17, 31)])
def test_cell_is_the_probability_of_class_one_at_its_center(column: int, row: int) -> None:
    drawn = surface_of(XOR, PARAMETERS, "xor")
    expected = TrainedModel(XOR, PARAMETERS, "xor").probabilities([center(drawn, column, row)])[0, 1]
    assert drawn["values"][row * SIZE + column] == pytest.approx(expected, abs=1e-4)
    assert (drawn["what"], drawn["class"], drawn["low"], drawn["high"]) == ("probability", 1, 0.0, 1.0)


def test_surface_of_a_built_in_task_has_its_rows_and_a_margin() -> None:
    drawn = surface_of(XOR, PARAMETERS, "xor")
    assert sorted(drawn["points"]) == [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert (drawn["x"], drawn["y"]) == ([-0.5, 1.5], [-0.5, 1.5])


def test_surface_of_another_task_has_no_rows() -> None:
    model = MLP((2, 3, 3))
    drawn = surface_of(model, np.zeros(model.num_parameters), "xor")
    assert drawn["points"] == []
    assert drawn["class"] == 0
    assert drawn["values"] == pytest.approx([0.3333] * SIZE**2)


def test_linear_model_has_values_with_their_range() -> None:
    drawn = surface_of(Linear(2), np.array([1.0, 10.0, 0.0]), "mine")
    assert (drawn["what"], drawn["class"]) == ("value", None)
    x, y = center(drawn, 3, 5)
    assert drawn["values"][5 * SIZE + 3] == pytest.approx(x + 10 * y, rel=1e-3)
    assert drawn["low"] == pytest.approx(min(drawn["values"]), rel=1e-3)
    assert drawn["high"] == pytest.approx(max(drawn["values"]), rel=1e-3)


@pytest.mark.parametrize(
    "parameters",
    [np.full(XOR.num_parameters, 1e308), np.full(XOR.num_parameters, np.nan), np.full(XOR.num_parameters, np.inf)],
)
def test_overflowing_candidate_gives_finite_numbers(parameters: np.ndarray) -> None:
    drawn = json.loads(msgspec.json.encode(surface_of(XOR, parameters, "xor")))
    assert all(value is not None and 0.0 <= value <= 1.0 for value in drawn["values"])


def test_code_model_has_no_surface() -> None:
    with pytest.raises(BadConfiguration):
        surface_of(XOR, np.zeros(3), "xor")
    with pytest.raises(BadConfiguration):
        surface_of(Code(num_parameters=3, inputs=2), np.zeros(3), "mine")
