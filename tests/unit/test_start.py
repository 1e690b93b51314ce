"""A run that starts from an earlier model: its first round, its refusals, its replay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from splits import closed, state_after
from table_rows import chosen, patients, table_task

from fedmq.algorithms.checkpoint import dump, load
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.starting import start_state
from fedmq.errors import BadConfiguration, StoreError
from fedmq.models.fourier import Fourier
from fedmq.models.layers import Layered
from fedmq.models.moved import moved
from fedmq.models.networks import MLP, Linear, LogLinear, Model
from fedmq.models.standardized import Standard
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import Trees
from fedmq.runs.records import Checkpoint
from fedmq.runs.replay import replay
from fedmq.runs.store import Store
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tasks.builtin import BUILTINS
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Task
from fedmq.testing.runs import run_config

XOR, LINEAR = BUILTINS["xor"].task, BUILTINS["linear"].task
SCHEMA = Schema(
    columns=(Column(name="age"), Column(name="color", kind="category", categories=("red", "green"))),
    target=Target(name="stay"),
)
OLD = Preparation(SCHEMA, np.array([50.0, 0.0]), np.array([10.0, 1.0]), np.array([50.0, 0.0]))
NEW = Preparation(SCHEMA, np.array([42.0, 0.0]), np.array([16.0, 1.0]), np.array([50.0, 0.0]))
FRAME = {"age": [20.0, None, 61.5], "color": ["green", "red", None]}


def trained(model: Model, prepared: Preparation | None = None, task: str = "stay") -> TrainedModel:
    parameters = np.random.default_rng(3).normal(size=model.num_parameters)
    return TrainedModel(model, parameters, task, preparation=prepared)


@pytest.mark.parametrize("model", [Linear(3), MLP((3, 4, 1), output="identity"), LogLinear(3)], ids=str)
def test_moved_model_predicts_the_same_under_other_statistics(model: Model) -> None:
    old = trained(model, OLD)
    new = TrainedModel(model, moved(old, NEW), "stay", preparation=NEW)
    np.testing.assert_allclose(new.predict(FRAME), old.predict(FRAME), rtol=1e-12)
    assert not np.allclose(new.parameters, old.parameters)


@pytest.mark.parametrize("model", [Fourier(3, 1, 8), MLP((3, 1), output="identity", bias=False)], ids=str)
def test_model_without_layers_and_biases_cannot_be_moved(model: Model) -> None:
    with pytest.raises(BadConfiguration, match="layers with biases"):
        moved(trained(model, OLD), NEW)


def test_averaging_publishes_the_earlier_model_first() -> None:
    averaging, earlier = find_algorithm("averaging", LINEAR), trained(LINEAR.model, task="linear")
    state = start_state(averaging, LINEAR, 7, earlier)
    np.testing.assert_array_equal(averaging.ask(state).arrays["model"], earlier.parameters)


def test_evolution_has_the_earlier_model_and_mutations_of_it_in_its_first_pool() -> None:
    evolution, earlier = find_algorithm("evolution", XOR), trained(XOR.model, task="xor")
    pool = evolution.ask(start_state(evolution, XOR, 7, earlier)).arrays["pool"]
    np.testing.assert_array_equal(pool[0], earlier.parameters)
    near = (pool == earlier.parameters).any(axis=1)
    assert near[:50].all()
    assert not near[50:].any()
    fresh = evolution.ask(evolution.init(XOR, 7)).arrays["pool"]
    np.testing.assert_array_equal(pool[50:], fresh[50:])


def forest_task(trees: int) -> Task:
    columns = len(table_task("ill").schema.columns)  # type: ignore[union-attr]
    model = Trees(columns, 2, "softmax", trees=trees, depth=2, categories=(0, 3, 0, 0, 0))
    return table_task("ill", model=model)


def test_boosting_goes_on_with_the_trees_of_an_earlier_forest() -> None:
    rows, short, long = patients(), forest_task(3), forest_task(7)
    boosting = find_algorithm("boosting", short)
    found = boosting.evaluation(state_after(boosting, short, [rows], 16))
    assert found is not None
    earlier = short.trained(found.parameters, found.preparation)
    more = find_algorithm("boosting", long)
    state, views = start_state(more, long, 1, earlier), [RowViews(long, rows)]
    while not more.finished(state):  # type: ignore[attr-defined]
        state = closed(more, state, long, views)
    evaluation = more.evaluation(state)
    assert evaluation is not None
    assert isinstance(short.model, Trees)
    assert isinstance(long.model, Trees)
    before, start = short.model.split_parameters(earlier.parameters)
    after, same = long.model.split_parameters(evaluation.parameters)
    assert before.any(axis=(1, 2)).tolist() == [True] * 3
    assert after.any(axis=(1, 2)).tolist() == [True] * 7
    np.testing.assert_array_equal(after[:3], before)
    np.testing.assert_array_equal(same, start)
    assert evaluation.loss < found.loss


def test_full_forest_is_no_start() -> None:
    task = forest_task(2)
    assert task.schema is not None
    assert isinstance(task.model, Trees)
    columns = len(task.schema.columns)
    prepared = Preparation(task.schema, np.zeros(columns), np.ones(columns), np.zeros(columns))
    full = TrainedModel(task.model, np.ones(task.model.num_parameters), "patients", preparation=prepared)
    with pytest.raises(BadConfiguration, match="fewer than 2 rounds of trees, got 2"):
        start_state(find_algorithm("boosting", task), task, 0, full)


@pytest.mark.parametrize("algorithm", ["ridge", "newton", "statistics"])
def test_algorithm_without_a_start_is_refused(algorithm: str) -> None:
    with pytest.raises(
        BadConfiguration, match=f"--from: expected an algorithm that starts from a model, got {algorithm}"
    ):
        start_state(find_algorithm(algorithm, LINEAR), LINEAR, 0, trained(LINEAR.model, task="linear"))


@pytest.mark.parametrize(
    ("earlier", "reason"),
    [
        (trained(Linear(3)), "expected a model with the model of task linear"),
        (TrainedModel(LINEAR.model, np.zeros(3), "linear", 10.0), "output_scale"),
    ],
    ids=["model", "scale"],
)
def test_model_of_another_task_is_refused(earlier: TrainedModel, reason: str) -> None:
    with pytest.raises(BadConfiguration, match=reason):
        start_state(find_algorithm("averaging", LINEAR), LINEAR, 0, earlier)


def test_model_of_another_schema_is_refused() -> None:
    task = Task(name="stay", model=Linear(3), loss="squared-error", metric="loss", schema=SCHEMA)
    other = Schema(columns=SCHEMA.columns, target=Target(name="costs"))
    earlier = trained(Linear(3), Preparation(other, OLD.shift, OLD.scale, OLD.fill))
    with pytest.raises(BadConfiguration, match="the schema of task stay, got another"):
        start_state(find_algorithm("averaging", task), task, 0, earlier)


def test_model_of_a_table_starts_after_the_survey_and_through_a_checkpoint() -> None:
    task = table_task("days", 0.2)
    averaging, rows = find_algorithm("averaging", task), patients()
    assert task.schema is not None
    numbers = np.array([60.0, 0.0, 2.0, 0.5, 1.0]), np.array([20.0, 1.0, 3.0, 0.4, 0.9])
    prepared = Preparation(task.schema, *numbers, numbers[0])
    model = task.trained(np.random.default_rng(5).normal(size=task.model.num_parameters), prepared)
    views = [RowViews(task, rows)]
    state = start_state(averaging, task, 3, model)
    state = load(dump(state), type(averaging.init(task, 3)))
    while state.stage == "survey":
        state = closed(averaging, state, task, views)
    first = averaging.ask(state).arrays
    arrays = (first["column_shift"], first["column_scale"], first["column_fill"])
    assert isinstance(task.model, Layered)
    raw = Standard.of(first["standard"]).raw(task.model, first["model"])
    moved_model = task.trained(raw, Preparation(task.schema, *arrays))
    complete = ~np.isnan(rows.columns["age"] + rows.columns["dose"]) & (rows.columns["smoker"] != "")
    whole = chosen(rows, np.flatnonzero(complete))
    np.testing.assert_allclose(moved_model.predict(whole), model.predict(whole), rtol=1e-12)
    assert not np.allclose(moved_model.parameters, model.parameters)


def test_replay_begins_with_the_checkpoint_of_the_first_round(tmp_path: Path) -> None:
    averaging, earlier = find_algorithm("averaging", LINEAR), trained(LINEAR.model, task="linear")
    config = replace(run_config("run", LINEAR, "averaging", seed=7), started_from="00" * 32)
    with Store(tmp_path / "store.sqlite3") as store:
        store.save(Checkpoint(1, dump(start_state(averaging, LINEAR, 7, earlier))))
        store.begin(config)
        for from_start in (False, True):
            state = replay(store, LINEAR, averaging, 7, from_start=from_start).state
            np.testing.assert_array_equal(averaging.ask(state).arrays["model"], earlier.parameters)
    with Store(tmp_path / "without.sqlite3") as store:
        store.begin(config)
        with pytest.raises(StoreError, match="the model that the run began with"):
            replay(store, LINEAR, averaging, 7)
