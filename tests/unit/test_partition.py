"""Partitions of rows over trainers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmq.errors import BadConfiguration
from fedmq.simulation.partition import partition

FORMS = ("blocks", "iid", "shards:2", "classes:2", "dirichlet:0.3", "size:0.5", "sorted:target")


@given(st.sampled_from(FORMS), st.integers(5, 12), st.integers(0, 2**32))
def test_parts_are_all_rows_once_and_depend_on_the_seed_alone(form: str, trainers: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, 4, 80)
    parts = partition(form, 80, trainers, seed, values)
    assert len(parts) == trainers
    assert min(map(len, parts)) >= 1
    assert sorted(np.concatenate(parts).tolist()) == list(range(80))
    again = partition(form, 80, trainers, seed, values)
    assert [part.tolist() for part in parts] == [part.tolist() for part in again]


def test_each_trainer_has_the_classes_that_were_asked_for() -> None:
    values = np.repeat(np.arange(10), 30)
    for part in partition("classes:2", 300, 10, 1, values):
        assert len(np.unique(values[part])) == 2


def test_a_column_gives_a_trainer_for_each_value() -> None:
    values = np.array(["north", "south", "north", "west"])
    assert [part.tolist() for part in partition("column:site", 4, 1, 0, values)] == [[0, 2], [1], [3]]


def test_small_alpha_gives_parts_that_differ_more() -> None:
    values = np.repeat(np.arange(10), 100)

    def classes(form: str) -> float:
        return float(np.mean([len(np.unique(values[part])) for part in partition(form, 1000, 20, 3, values)]))

    assert classes("dirichlet:0.05") < classes("dirichlet:1") < classes("iid")


@pytest.mark.parametrize(
    "form", ["", "even", "classes:0", "classes:1.5", "classes:11", "dirichlet:x", "iid:3", "shards:99"]
)
def test_impossible_partition_is_refused(form: str) -> None:
    with pytest.raises(BadConfiguration):
        partition(form, 40, 4, 0, np.repeat(np.arange(10), 4))
