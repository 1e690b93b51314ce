"""One model and the same figures for any split of the rows: four algorithms on five tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from exact_vectors import outcome_of_table
from five_tables import ALGORITHMS, data_sets
from test_exact_portability import EXPECTED

from fedmq.algorithms.boosting import learner as boosting
from fedmq.algorithms.newton import learner as newton
from fedmq.algorithms.ridge import learner as ridge
from fedmq.algorithms.statistics import learner as statistics

DATA_SETS = data_sets()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", DATA_SETS)
def test_model_and_figures_are_the_same_for_any_split(name: str, algorithm: str) -> None:
    data = DATA_SETS[name]
    outcomes = {split: outcome_of_table(data, algorithm, tables) for split, tables in data.splits()}
    assert len(outcomes) == 4
    assert len(set(outcomes.values())) == 1, outcomes
    assert outcomes["three"] == EXPECTED[f"{algorithm}: table, {name}"]  # of every machine


def plant_float_sums(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sum rows in floating point and round the sums, which is right on one machine and for one split only."""

    def gram(_query: Any, _work: Any, fixed: np.ndarray) -> np.ndarray:
        values = fixed * 2.0**-38
        return np.stack([np.rint((values.T @ values)[np.triu_indices(fixed.shape[1])] * 2.0**36)] * 3).astype(np.int64)

    def limbs(fixed: np.ndarray) -> np.ndarray:
        values = fixed * 2.0**-31 + 1e-3
        sums, squares = values.sum(axis=0), (values * values).sum(axis=0) * 2.0**-31
        return np.rint([sums, 0.0 * sums, *[squares] * 6]).astype(np.int64)

    def products(left: np.ndarray, _left_bits: int, right: np.ndarray, _right_bits: int) -> np.ndarray:
        return np.rint((left * 2.0**-20).T @ (right * 2.0**-20 + 1e-9) * 2.0**40).astype(np.int64)

    if algorithm == "statistics":
        monkeypatch.setattr(statistics, "_limbs", limbs)
    elif algorithm == "ridge":
        monkeypatch.setattr(ridge, "_sums", gram)
    elif algorithm == "newton":
        monkeypatch.setattr(newton, "product", products)
    else:
        monkeypatch.setattr(boosting, "to_fixed", lambda values, bits, _most: values * 2.0**bits)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_planted_float_sums_are_caught(algorithm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant_float_sums(algorithm, monkeypatch)
    data = DATA_SETS["breast cancer" if algorithm != "ridge" else "diabetes"]
    assert len({outcome_of_table(data, algorithm, tables) for _, tables in data.splits()}) > 1
