"""Robust aggregation: examples, and properties for any models."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmq.algorithms.averaging.robust_aggregation import (
    RULES,
    byzantine_among,
    clipped_mean,
    krum,
    median,
    trimmed_mean,
)
from fedmq.algorithms.base import Update
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.protocol.run_config import Limits
from fedmq.runs.maintenance import replay_run
from fedmq.runs.store import Store
from fedmq.runtime.run_folder import STORE
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows

LINEAR = find_task("linear")
ORIGIN = np.zeros(1)
NUMBERS = st.floats(-1e9, 1e9)


def column(*values: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Models of one gene each."""
    return np.array(values)[:, None]


# By hand


def test_change_is_shortened_to_the_median_length() -> None:
    before = np.array([10.0, 0.0])
    changes = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-0.5, 0.0], [1000.0, 0.0]])
    np.testing.assert_allclose(clipped_mean(before + changes, before), [10.3, 0.0])


def test_unchanged_models_can_be_clipped() -> None:
    before = np.array([1.0, 2.0])
    np.testing.assert_array_equal(clipped_mean(np.array([before, before, before]), before), before)


def test_trimmed_mean_ignores_the_extremes_of_each_parameter() -> None:
    models = np.array([[0.0, 5.0], [1.0, 4.0], [2.0, -900.0], [3.0, 2.0], [100.0, 1.0]])
    np.testing.assert_array_equal(trimmed_mean(models, np.zeros(2)), [2.0, 7.0 / 3.0])


def test_median_is_the_middle_of_each_parameter() -> None:
    models = np.array([[0.0, 5.0], [1.0, 4.0], [100.0, -900.0]])
    np.testing.assert_array_equal(median(models, np.zeros(2)), [1.0, 4.0])


def test_krum_selects_the_model_nearest_to_its_neighbors() -> None:
    """Squared distances to the two nearest: 0.05, 0.02, 0.05, 47, 18051."""
    assert krum(column(0.0, 0.1, 0.2, 5.0, 100.0), ORIGIN) == 0.1


def test_krum_ignores_two_far_models_that_agree() -> None:
    assert krum(column(0.0, 0.5, 1.0, 1.5, 2.0, 90.0, 90.0), ORIGIN) == 1.0


@pytest.mark.parametrize("rule", RULES)
def test_two_models_are_averaged_by_each_rule(rule: str) -> None:
    assert RULES[rule](column(1.0, 3.0), column(2.0)[0]) == 2.0


def test_expected_byzantine_models_are_one_in_five() -> None:
    assert [byzantine_among(count) for count in (1, 2, 3, 4, 5, 9, 10, 100)] == [0, 0, 1, 1, 1, 1, 2, 20]


# Whatever comes


@given(arrays(np.float64, st.integers(1, 6), elements=NUMBERS), st.integers(1, 12))
def test_equal_models_give_the_same_model(model: Any, count: int) -> None:
    models = np.repeat(model[None], count, axis=0)
    for rule in (trimmed_mean, median, krum):
        np.testing.assert_array_equal(rule(models, np.zeros_like(model)), krum(models[:1], model))
    np.testing.assert_allclose(clipped_mean(models, np.ones_like(model)), model, rtol=1e-9, atol=1e-6)


@given(arrays(np.float64, (4, 3), elements=NUMBERS), arrays(np.float64, (1, 3), elements=NUMBERS))
def test_one_byzantine_of_five_keeps_parameters_in_the_honest_range(honest: Any, lie: Any) -> None:
    for rule in (trimmed_mean, median):
        model = rule(np.concatenate([honest, lie]), np.zeros(3))
        assert (honest.min(axis=0) <= model).all()
        assert (model <= honest.max(axis=0)).all()


@given(arrays(np.float64, (5, 3), elements=st.floats(-10, 10)), st.floats(1, 1e9))
def test_clipped_byzantine_model_moves_the_mean_at_most_a_usual_change(models: Any, size: float) -> None:
    models[4] *= size
    lengths = np.linalg.norm(models, axis=1)
    moved = np.linalg.norm(clipped_mean(models, np.zeros(3)))
    assert moved <= np.median(lengths) * (1.0 + 1e-9)


@pytest.mark.parametrize("rule", RULES)
@given(order=st.permutations(range(5)), seed=st.integers(0, 99))
def test_order_of_arrival_changes_no_bit(rule: str, order: list[int], seed: int) -> None:
    models = np.random.default_rng(seed).normal(size=(5, 3))
    strategy = find_algorithm("averaging", parameters={"rule": rule})
    scores = {"losses": np.ones(1), "correct": np.zeros(1, np.int64)}
    published = []
    for arrival in (range(5), order):
        state = strategy.init(LINEAR, 1)
        for place in arrival:
            state = strategy.tell(state, Update(f"t{place}", 1, 0, 2, {**scores, "model": models[place]}))
        state = strategy.close(state, {f"t{place}" for place in range(5)})
        published.append(strategy.ask(state).arrays["model"].tobytes())
    assert published[0] == published[1]


def test_rule_gives_each_trainer_one_vote_despite_rows_or_late_results() -> None:
    strategy = find_algorithm("averaging", parameters={"rule": "median"})
    state = strategy.close(strategy.init(LINEAR, 1), ())
    said = {"losses": np.ones(1), "correct": np.zeros(1, np.int64), "model": np.ones(3)}
    for name, value in (("a", 1.0), ("b", 2.0), ("liar", 9.0)):
        update = Update(name, 2, 0, 10**9 if name == "liar" else 2, {**said, "model": np.full(3, value)})
        state = strategy.tell(state, update)
    state = strategy.tell(state, replace(update, round=1, staleness=1))
    state = strategy.close(state, {"a", "b", "liar"})
    np.testing.assert_array_equal(strategy.ask(state).arrays["model"], np.full(3, 2.0))


# The choice


def test_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(BadConfiguration) as refused:
        find_algorithm("averaging", parameters={"rule": "mean"})
    assert all(rule in str(refused.value) for rule in ("rule", "none", *RULES, "mean"))


def test_evolution_has_no_rule() -> None:
    with pytest.raises(BadConfiguration, match="parameter rule: unknown"):
        find_algorithm("evolution", parameters={"rule": "median"})


def test_run_is_replayed_with_its_own_rule(tmp_path: Any) -> None:
    rows = {f"t{part}": task_rows("linear", part, 3) for part in (1, 2, 3)}
    store, limits = Store(tmp_path / STORE), Limits(rounds_max=6, min_trainers=3)
    federation = Federation(
        LINEAR, find_algorithm("averaging", parameters={"rule": "median"}), rows, limits=limits, store=store
    )
    model = federation.train()
    store.close()
    plain = Federation(
        LINEAR, find_algorithm("averaging", parameters={"standardize": False}), rows, limits=limits
    ).train()
    assert model is not None
    assert plain is not None
    assert model.parameters.tobytes() != plain.parameters.tobytes()
    assert replay_run(tmp_path).model_sha256 == hashlib.sha256(model.to_bytes()).hexdigest()
