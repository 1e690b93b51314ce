"""The picture of what a model of two inputs says: the right cell has the right value."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest

from fedmq.dashboard.surface import SIZE, surface_of
from fedmq.errors import BadConfiguration
from fedmq.models.code import Code
from fedmq.models.networks import MLP, Linear
from fedmq.models.trained_model import TrainedModel
from fedmq.tasks.task_file import find_task

XOR = find_task("xor").model
PARAMETERS = np.random.default_rng(1).normal(size=XOR.num_parameters)


def centre(drawn: dict[str, list[float]], column: int, row: int) -> list[float]:
    return [
        drawn[axis][0] + (place + 0.5) / SIZE * (drawn[axis][1] - drawn[axis][0])
        for axis, place in (("x", column), ("y", row))
    ]


@pytest.mark.parametrize(("column", "row"), [(0, 0), (SIZE - 1, 0), (0, SIZE - 1), (17, 31)])
def test_a_cell_holds_the_probability_of_the_second_of_two_classes_at_its_centre(column: int, row: int) -> None:
    drawn = surface_of(XOR, PARAMETERS, "xor")
    expected = TrainedModel(XOR, PARAMETERS, "xor").probabilities([centre(drawn, column, row)])[0, 1]
    assert drawn["values"][row * SIZE + column] == pytest.approx(expected, abs=1e-4)
    assert (drawn["what"], drawn["class"], drawn["low"], drawn["high"]) == ("probability", 1, 0.0, 1.0)


def test_the_rows_of_a_built_in_task_are_drawn_on_it_with_some_room_around() -> None:
    drawn = surface_of(XOR, PARAMETERS, "xor")
    assert sorted(drawn["points"]) == [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert (drawn["x"], drawn["y"]) == ([-0.5, 1.5], [-0.5, 1.5])


def test_of_somebodys_own_task_no_rows_are_known_whatever_its_name_is() -> None:
    model = MLP((2, 3, 3))
    drawn = surface_of(model, np.zeros(model.num_parameters), "xor")
    assert drawn["points"] == []
    assert drawn["class"] == 0
    assert drawn["values"] == pytest.approx([0.3333] * SIZE**2)


def test_a_linear_model_gives_values_between_their_extremes() -> None:
    drawn = surface_of(Linear(2), np.array([1.0, 10.0, 0.0]), "mine")
    assert (drawn["what"], drawn["class"]) == ("value", None)
    x, y = centre(drawn, 3, 5)
    assert drawn["values"][5 * SIZE + 3] == pytest.approx(x + 10 * y, rel=1e-3)
    assert drawn["low"] == pytest.approx(min(drawn["values"]), rel=1e-3)
    assert drawn["high"] == pytest.approx(max(drawn["values"]), rel=1e-3)


@pytest.mark.parametrize(
    "parameters",
    [np.full(XOR.num_parameters, 1e308), np.full(XOR.num_parameters, np.nan), np.full(XOR.num_parameters, np.inf)],
)
def test_a_wild_candidate_gives_numbers_all_the_same(parameters: np.ndarray) -> None:
    drawn = json.loads(msgspec.json.encode(surface_of(XOR, parameters, "xor")))
    assert all(value is not None and 0.0 <= value <= 1.0 for value in drawn["values"])


def test_what_is_no_model_of_two_inputs_is_refused() -> None:
    with pytest.raises(BadConfiguration):
        surface_of(XOR, np.zeros(3), "xor")
    with pytest.raises(BadConfiguration):
        surface_of(Code(num_parameters=3, inputs=2), np.zeros(3), "mine")
